"""Runs that are killed again and again, at any moment: nothing is lost, and they end as one that nobody touched."""

from __future__ import annotations

import json
import random
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import forked, killed_at
from tiny_objectives import SHORT, Regression
from torch.utils._pytree import tree_leaves

from versatile_diffusion.recipes.run import run
from versatile_diffusion.recipes.settings import SETTINGS
from versatile_diffusion.training.engine.checkpoints import Checkpoints

KILLS = 40
DIFFERS = ("seconds", "items_per_second", "memory_gib")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks a process that has loaded torch")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)


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
