"""Checkpoints: whole or not there, the last few kept, damaged ones passed over."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from versatile_diffusion.training.checkpoints import Checkpoints, held

resource = pytest.importorskip("resource")


def content(step: int) -> dict[str, object]:
    return {"step": step, "weights": torch.full((1000,), float(step))}


def step_of(checkpoints: Checkpoints) -> int | None:
    path = checkpoints.newest()
    return None if path is None else torch.load(path, weights_only=True)["step"]


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """No file can grow beyond `room` bytes."""
    before, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)


def _save(checkpoints: Checkpoints, step: int) -> None:
    checkpoints.save(content(step), step)
    checkpoints.wait()


@pytest.mark.parametrize("background", [False, True])
def test_the_last_ones_stay(tmp_path: Path, background: bool) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2, background=background)
    assert step_of(checkpoints) is None
    given = content(5)
    checkpoints.save(given, 5)
    given["weights"].zero_()  # type: ignore[attr-defined]
    for step in (10, 15):
        checkpoints.save(content(step), step)
    checkpoints.wait()
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["0000010.pt", "0000010.pt.sha256", "0000015.pt", "0000015.pt.sha256"]
    assert step_of(checkpoints) == 15
    assert torch.equal(torch.load(tmp_path / "checkpoint.pt")["weights"], torch.full((1000,), 15.0))


def test_training_may_change_what_is_being_written(tmp_path: Path) -> None:
    checkpoints, given = Checkpoints(tmp_path, background=True), content(3)
    checkpoints.save(given, 3)
    given["weights"].zero_()  # type: ignore[attr-defined]
    checkpoints.wait()
    assert torch.load(tmp_path / "checkpoint.pt")["weights"].eq(3).all()


def test_a_damaged_one_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoints = Checkpoints(tmp_path, keep=3)
    for step in (1, 2, 3):
        checkpoints.save(content(step), step)
    newest = tmp_path / "checkpoints" / "0000003.pt"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    (tmp_path / "checkpoints" / "0000002.pt.sha256").unlink()
    assert step_of(checkpoints) == 1
    assert "0000003.pt is damaged" in capsys.readouterr().err
    (tmp_path / "checkpoints" / "0000001.pt").write_bytes(b"")
    with pytest.raises(ValueError, match="every checkpoint"):
        checkpoints.newest()


@pytest.mark.parametrize("background", [False, True])
def test_a_full_disk_leaves_the_one_before(tmp_path: Path, background: bool) -> None:
    checkpoints = Checkpoints(tmp_path, background=background)
    checkpoints.save(content(1), 1)
    checkpoints.wait()
    with (
        full_disk(room=2000),
        pytest.raises(OSError, match=r"step 2 could not be written.*still there: 0000001\.pt"),
    ):
        _save(checkpoints, 2)
    assert step_of(checkpoints) == 1
    assert not list(tmp_path.rglob("*.tmp"))
    checkpoints.save(content(2), 2)
    checkpoints.wait()
    assert step_of(checkpoints) == 2


def test_what_a_killed_run_left_is_cleared_away(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "0000007.tmp").write_bytes(b"half")
    (tmp_path / "checkpoints" / "0000007.pt.sha256").write_text("0  0000007.pt\n")
    checkpoints = Checkpoints(tmp_path)
    assert step_of(checkpoints) is None
    checkpoints.save(content(8), 8)
    assert not list(tmp_path.rglob("*.tmp"))
    assert step_of(checkpoints) == 8


def test_a_checkpoint_of_an_earlier_version_is_read(tmp_path: Path) -> None:
    torch.save(content(4), tmp_path / "checkpoint.pt")
    checkpoints = Checkpoints(tmp_path)
    assert step_of(checkpoints) == 4
    checkpoints.save(content(6), 6)
    assert step_of(checkpoints) == 6


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    with held(tmp_path), pytest.raises(ValueError, match="another process is training"), held(tmp_path):
        pass
    with held(tmp_path):
        pass
