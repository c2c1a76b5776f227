"""A run's folder: one run at a time has it, and one that is refused leaves everything as it was."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_objectives import SHORT, Flows, Regression

from versatile_diffusion.recipes.run import run
from versatile_diffusion.recipes.settings import SETTINGS
from versatile_diffusion.training.engine.distributed import World
from versatile_diffusion.training.engine.folder import held, owned
from versatile_diffusion.training.engine.loop import LoopSettings, Objective, train

fcntl = pytest.importorskip("fcntl")
linux = pytest.mark.skipif(sys.platform != "linux", reason="forks a process that has loaded torch")


def everything(out: Path) -> dict[str, bytes | None]:
    """What stands in a folder; of the lock only that it is there."""
    files = {path: path.read_bytes() if path.is_file() else None for path in sorted(out.rglob("*"))}
    return {str(path.relative_to(out)): content for path, content in files.items() if path.name != ".lock"}


def _stop(values: torch.Tensor) -> torch.Tensor:
    os.kill(os.getpid(), signal.SIGTERM)
    return values


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs an objective by name, as the command does, in the folder `run`."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    (tmp_path / "data").mkdir()

    def start(objective: Objective | None = None, loop: LoopSettings = SHORT, **changes: Any) -> Any:
        monkeypatch.setitem(SETTINGS, "tiny", {"emoji": lambda *_: (objective or Regression(), loop)})
        return run("tiny", "emoji", tmp_path / "data", tmp_path / "run", device="cpu", changes=changes)

    return start


@pytest.mark.parametrize(
    ("other", "changes", "why"),
    [
        (Regression(width=5), {}, "width"),
        (Flows(), {}, "flows"),
        (Regression(), {"seed": 4}, "seed"),
        (Regression(), {"steps": 11}, "steps"),
        (Regression(), {"warmup": 0, "schedule": "cosine"}, "cosine"),
        (Regression(), {"posthoc": (0.1,)}, "1 widths"),
        (Regression(), {"activation_checkpointing": True}, "is not supported"),
        *([] if find_spec("wandb") else [(Regression(), {"wandb": True}, "wandb")]),
    ],
)
def test_a_refused_run_leaves_everything_as_it_was(
    started: Callable[..., Any], tmp_path: Path, other: Objective, changes: dict[str, Any], why: str
) -> None:
    started(Regression({7: _stop}), checkpoint_minutes=0)
    before = everything(tmp_path / "run")
    assert {"settings.json", "log.jsonl", "checkpoints/0000008.pt"} <= before.keys()
    with pytest.raises(ValueError, match=why):
        started(other, **changes)
    assert everything(tmp_path / "run") == before
    with held(tmp_path / "run"), pytest.raises(ValueError, match="another process is training"):
        started()
    assert everything(tmp_path / "run") == before
    assert started().finished


def test_what_is_refused_before_it_began_leaves_no_folder(started: Callable[..., Any], tmp_path: Path) -> None:
    def build(*_: Any) -> Any:
        assert (tmp_path / "run").is_dir()
        raise ValueError("bad data")

    broken = Regression()
    broken.build = build  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="bad data"):
        started(broken)
    assert not (tmp_path / "run").exists()
    (tmp_path / "run").mkdir()
    with pytest.raises(ValueError, match="bad data"):
        started(broken)
    assert (tmp_path / "run").is_dir()  # somebody else made it


def test_the_folder_is_held_before_the_data_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: Any) -> Any:
        raise AssertionError("something was built")

    with held(tmp_path / "run"):
        monkeypatch.setitem(SETTINGS, "tiny", {"emoji": never})
        with pytest.raises(ValueError, match=f"another process is training .*process {os.getpid()} on"):
            run("tiny", "emoji", tmp_path / "data", tmp_path / "run", device="cpu")
    with held(tmp_path / "run"):
        pass


@linux
def test_of_runs_that_start_at_once_one_has_the_folder(tmp_path: Path, one_thread: None) -> None:
    context = multiprocessing.get_context("fork")
    gate, answers, refused = context.Event(), context.Queue(), context.Semaphore(0)

    def until_all_others_were_refused(values: torch.Tensor) -> torch.Tensor:
        for _ in range(3):
            assert refused.acquire(timeout=300)
        return values

    def start(number: int) -> None:
        gate.wait()
        try:
            train(Regression({5: until_all_others_were_refused}), SHORT, tmp_path / "run")
            answers.put("trained")
        except ValueError as error:
            refused.release()
            answers.put(str(error))

    processes = [context.Process(target=start, args=(number,)) for number in range(4)]
    for process in processes:
        process.start()
    gate.set()
    told = sorted(answers.get(timeout=300) for _ in processes)
    for process in processes:
        process.join()
    assert told[-1] == "trained"
    assert all(answer.startswith("another process is training in ") for answer in told[:-1])
    assert train(Regression(), SHORT, tmp_path / "run").finished


@linux
def test_the_lock_of_a_dead_process_holds_nobody(
    tmp_path: Path, one_thread: None, capfd: pytest.CaptureFixture[str]
) -> None:
    def killed() -> None:
        with held(tmp_path):
            os.kill(os.getpid(), signal.SIGKILL)

    process = multiprocessing.get_context("fork").Process(target=killed)
    process.start()
    process.join()
    assert f"process {process.pid} on {socket.gethostname()}" in (tmp_path / ".lock").read_text()
    with held(tmp_path):
        pass
    assert capfd.readouterr().err == ""
    assert (tmp_path / ".lock").read_text() == ""


@pytest.mark.parametrize("left", [b"process 7 on elsewhere", b"\xff\x00 garbage", b"x" * 5000])
def test_the_lock_of_another_machine_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str], left: bytes) -> None:
    (tmp_path / ".lock").write_bytes(left)
    with held(tmp_path):
        pass
    assert "is marked as used by" in capsys.readouterr().err
    with held(tmp_path):
        pass
    assert capsys.readouterr().err == ""


def test_a_disk_without_locks_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: Any) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", none)
    assert train(Regression(), SHORT, tmp_path).finished
    assert "cannot be locked" in capsys.readouterr().err


def test_what_killed_runs_left_half_written_is_swept(tmp_path: Path) -> None:
    for name in ("settings.json.tmp", "posthoc/0000003.safetensors.tmp", "encoded/part-00000.safetensors.tmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("half")
    (tmp_path / "posthoc" / "0000002.safetensors").write_text("kept")
    with owned(tmp_path, World()):
        assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [".lock", "0000002.safetensors"]
    with held(tmp_path), pytest.raises(ValueError, match="another process"), owned(tmp_path, World()):
        pass


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError, match="file"):
            train(Regression(), replace(SHORT, steps=1), place)
