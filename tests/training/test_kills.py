"""Runs that are killed again and again, at any moment: nothing is lost, and they end as one that nobody touched."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_objectives import SHORT, Regression
from torch.utils._pytree import tree_leaves

from versatile_diffusion.recipes.run import run
from versatile_diffusion.recipes.settings import SETTINGS
from versatile_diffusion.training.engine.checkpoints import Checkpoints

KILLS = 40
DIFFERS = ("seconds", "items_per_second", "memory_gib")
OPERATIONS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.symlink", "os.truncate")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks a process that has loaded torch")


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A forked process waits for ever on the threads that its parent had."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def forked(work: Callable[[], Any], kill_after: float | None = None) -> int:
    """The exit code of `work` in a process of its own."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(kill_after)
    if process.is_alive():
        process.kill()
    process.join(600)
    assert process.exitcode is not None
    return process.exitcode


def killed_at(operation: int, out: Path, work: Callable[[], Any]) -> None:
    """`work`, killed before its n-th operation on a file below `out`."""
    left = [operation]

    def count(event: str, words: tuple[Any, ...]) -> None:
        if event in OPERATIONS and any(isinstance(word, str | os.PathLike) and str(out) in str(word) for word in words):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    work()


def state(out: Path) -> list[Any]:
    """All that a run has come to, but for clocks."""
    newest = Checkpoints(out).newest()
    assert newest is not None
    content = torch.load(newest, weights_only=True)
    content.pop("elapsed")
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [
        [{name: value for name, value in line.items() if name not in DIFFERS} for line in lines],
        [leaf.tolist() if isinstance(leaf, torch.Tensor) else leaf for leaf in tree_leaves(content)],
        exported(out),
    ]


def exported(out: Path) -> dict[str, bytes]:
    return {str(file.relative_to(out)): file.read_bytes() for file in (out / "export").rglob("*") if file.is_file()}


def step_of(out: Path) -> int:
    """Of the newest checkpoint; what it belongs to is there."""
    newest = Checkpoints(out).newest()
    if newest is not None:
        json.loads((out / "settings.json").read_text())
    return -1 if newest is None else int(newest.stem)


@pytest.mark.campaign
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("keep", [1, 2])
def test_a_run_killed_at_any_of_its_files_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], keep: int
) -> None:
    settings = replace(SHORT, steps=60, checkpoint_minutes=0, posthoc=(0.1,), snapshots=8, keep=keep)
    monkeypatch.setitem(SETTINGS, "tiny", {"emoji": lambda *_: (Regression(), settings)})

    def work(out: Path) -> None:
        run("tiny", "emoji", tmp_path, out, device="cpu")

    whole, broken, draw = tmp_path / "whole", tmp_path / "broken", random.Random(keep)
    assert forked(lambda: work(whole)) == 0
    before = -1
    for _ in range(KILLS):
        operation = draw.randint(1, 99)
        code = forked(lambda n=operation: killed_at(n, broken, lambda: work(broken)))
        assert code in (-signal.SIGKILL, 0)
        assert step_of(broken) >= before
        before = step_of(broken)
        assert exported(broken) in ({}, exported(whole))
    assert forked(lambda: work(broken)) == 0
    assert state(broken) == state(whole)
    assert not list(broken.rglob("*.tmp"))
    assert len(list(broken.glob("checkpoints/*.pt"))) == len(list(broken.glob("checkpoints/*.pt.sha256"))) == keep
    assert ": skipped" not in capfd.readouterr().err
