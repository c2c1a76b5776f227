"""Checkpoints: whole or not there, the last few kept, damaged ones passed over."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from versatile_diffusion.training.engine.checkpoints import SEAL_LENGTH, Checkpoints

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


def spoil(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def as_before(path: Path, hash_beside: bytes | None = None) -> None:
    """A checkpoint as earlier versions wrote it: its hash is beside it alone."""
    path.write_bytes(path.read_bytes()[:-SEAL_LENGTH])
    told = hashlib.sha256(path.read_bytes()).hexdigest().encode() + b"  " + path.name.encode()
    path.with_suffix(".pt.sha256").write_bytes(told if hash_beside is None else hash_beside)


def there(out: Path) -> list[str]:
    return sorted(path.name for path in (out / "checkpoints").glob("*.pt"))


def test_a_damaged_one_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoints = Checkpoints(tmp_path, keep=3)
    for step in (1, 2, 3):
        checkpoints.save(content(step), step)
    spoil(tmp_path / "checkpoints" / "0000003.pt")
    middle = tmp_path / "checkpoints" / "0000002.pt"
    middle.write_bytes(middle.read_bytes()[:-20])
    assert step_of(checkpoints) == 1
    told = capsys.readouterr().err
    assert "0000003.pt is damaged" in told
    assert "0000002.pt is damaged" in told
    (tmp_path / "checkpoints" / "0000001.pt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"every checkpoint .*\(0000001\.pt, 0000002\.pt, 0000003\.pt\)"):
        checkpoints.newest()


def test_a_file_is_proved_by_itself_and_by_the_tool_for_hashes(tmp_path: Path) -> None:
    Checkpoints(tmp_path).save(content(7), 7)
    path = tmp_path / "checkpoints" / "0000007.pt"
    beside = path.with_suffix(".pt.sha256")
    assert beside.read_text() == f"{hashlib.sha256(path.read_bytes()).hexdigest()}  0000007.pt\n"
    for wrong in (b"", b"\xff\xfe\x00", b"0" * 64):
        beside.write_bytes(wrong)
        assert step_of(Checkpoints(tmp_path)) == 7
    beside.unlink()
    assert step_of(Checkpoints(tmp_path)) == 7
    for mapped in (False, True):
        assert torch.load(path, weights_only=True, mmap=mapped)["weights"].eq(7).all()


@pytest.mark.parametrize("hash_beside", [b"", b"\n", b"\xff\xfe\x00", b"no hash", None])
def test_hashes_of_earlier_versions_that_cannot_be_read_count_as_damage(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], hash_beside: bytes | None
) -> None:
    checkpoints, folder = Checkpoints(tmp_path), tmp_path / "checkpoints"
    for step in (3, 4):
        checkpoints.save(content(step), step)
        as_before(folder / f"{step:07d}.pt")
    assert step_of(Checkpoints(tmp_path)) == 4
    beside = folder / "0000004.pt.sha256"
    beside.unlink()
    beside.mkdir() if hash_beside is None else beside.write_bytes(hash_beside)
    assert step_of(Checkpoints(tmp_path)) == 3
    assert "0000004.pt" in capsys.readouterr().err
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(content(4), 4)  # the step is written again, whatever stands beside it
    assert step_of(checkpoints) == 4


def _named_otherwise(folder: Path, good: Path) -> None:
    for name in ("best.pt", "0001500 (copy).pt", "1500.pt", "00000001500.pt", "-000001.pt", "٠٠٠١٥٠٠.pt", "best.sd.pt"):
        shutil.copy(good, folder / name)


def _no_files(folder: Path, good: Path) -> None:
    (folder / "0001500.pt").mkdir()
    (folder / "0001501.pt").symlink_to("nowhere")
    (folder / "0001502.pt").symlink_to("0001502.pt")
    os.mkfifo(folder / "0001503.pt")
    (folder / "0001504.pt").symlink_to("/dev/zero")


def _others(folder: Path, good: Path) -> None:
    (folder / "0001500.pt").write_bytes(b"")
    (folder / "0001501.pt").write_text("no checkpoint")
    shutil.copy(good, folder / "0001502.pt")  # whole, and of another step
    for number, other in enumerate(([1, 2], {"weights": torch.ones(2)}, 7), start=1503):
        path = folder / f"{number:07d}.pt"
        torch.save(other, path)
        path.with_suffix(".pt.sha256").write_text(hashlib.sha256(path.read_bytes()).hexdigest())


@pytest.mark.parametrize("odd", [_named_otherwise, _no_files, _others])
def test_what_is_no_checkpoint_is_named_and_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], odd: Callable[[Path, Path], None]
) -> None:
    checkpoints, folder = Checkpoints(tmp_path, keep=1), tmp_path / "checkpoints"
    checkpoints.save(content(3), 3)
    odd(folder, folder / "0000003.pt")
    strange = set(there(tmp_path)) - {"0000003.pt"}
    assert step_of(checkpoints) == 3
    told = capsys.readouterr().err
    assert all(f"/{name} " in told for name in strange)
    for step in (4, 5):
        checkpoints.save(content(step), step)
        assert set(there(tmp_path)) == strange | {f"{step:07d}.pt"}
    assert step_of(Checkpoints(tmp_path)) == 5


def test_a_folder_in_the_way_is_moved_aside(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints" / "0000002.pt"
    folder.mkdir(parents=True)
    (folder / "mine.txt").write_text("kept")
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(content(2), 2)
    assert step_of(checkpoints) == 2
    assert (tmp_path / "checkpoints" / "0000002.folder" / "mine.txt").read_text() == "kept"


@pytest.mark.parametrize("keep", [1, 2, 3])
@pytest.mark.parametrize("earlier", [False, True])
def test_damaged_ones_take_no_place(tmp_path: Path, keep: int, earlier: bool) -> None:
    """Whether newer or older, and whichever version wrote them."""
    checkpoints, folder = Checkpoints(tmp_path, keep=9), tmp_path / "checkpoints"
    for step in (1, 2, 3, 4, 5, 1500):
        checkpoints.save(content(step), step)
        if earlier:
            as_before(folder / f"{step:07d}.pt")
    for step in (3, 5, 1500):
        spoil(folder / f"{step:07d}.pt")
    checkpoints = Checkpoints(tmp_path, keep)
    assert step_of(checkpoints) == 4
    for step in (6, 7, 8, 9):
        checkpoints.save(content(step), step)
        whole = [name for name in there(tmp_path) if name not in ("0000003.pt", "0000005.pt", "0001500.pt")]
        assert whole == [f"{n:07d}.pt" for n in (1, 2, 4, 6, 7, 8, 9) if n <= step][-keep:]
        assert step_of(Checkpoints(tmp_path)) == step
    assert "0001500.pt" in there(tmp_path)


def test_one_that_is_damaged_while_the_run_goes_on_takes_no_place_either(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2)
    for step in (1, 2):
        checkpoints.save(content(step), step)
    spoil(tmp_path / "checkpoints" / "0000002.pt")
    checkpoints.save(content(3), 3)
    assert there(tmp_path) == ["0000001.pt", "0000002.pt", "0000003.pt"]


def test_a_copy_whose_links_became_files_goes_on(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for step in (1, 2):
        Checkpoints(tmp_path / "run").save(content(step), step)
    shutil.copytree(tmp_path / "run", tmp_path / "copy")  # follows links
    assert not (tmp_path / "copy" / "checkpoint.pt").is_symlink()
    copy = Checkpoints(tmp_path / "copy", keep=1)
    assert step_of(copy) == 2
    for path in (tmp_path / "copy" / "checkpoints").glob("*.pt"):
        spoil(path)
    assert step_of(Checkpoints(tmp_path / "copy")) == 2  # from the file that was the link
    spoil(tmp_path / "copy" / "checkpoint.pt")
    with pytest.raises(ValueError, match="every checkpoint"):
        Checkpoints(tmp_path / "copy").newest()
    shutil.move(tmp_path / "run", tmp_path / "moved")
    assert step_of(Checkpoints(tmp_path / "moved")) == 2
    assert torch.load(tmp_path / "moved" / "checkpoint.pt")["step"] == 2


@pytest.mark.parametrize("there_is", ["missing", "circle", "folder", "cut"])
def test_the_pointer_does_not_decide(tmp_path: Path, there_is: str) -> None:
    for step in (1, 2):
        Checkpoints(tmp_path).save(content(step), step)
    link = tmp_path / "checkpoint.pt"
    link.unlink()
    if there_is == "circle":
        link.symlink_to(link.name)
    elif there_is == "folder":
        link.mkdir()
    elif there_is == "cut":
        link.write_bytes(b"PK")
    assert step_of(Checkpoints(tmp_path)) == 2
    Checkpoints(tmp_path).save(content(3), 3)
    assert step_of(Checkpoints(tmp_path)) == 3


@pytest.mark.parametrize("background", [False, True])
def test_a_full_disk_leaves_the_one_before(tmp_path: Path, background: bool) -> None:
    checkpoints = Checkpoints(tmp_path, background=background)
    checkpoints.save(content(1), 1)
    checkpoints.wait()
    with (
        full_disk(room=2000),
        pytest.raises(OSError, match=r"step 2 could not be written.*available checkpoints: 0000001\.pt"),
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


def test_one_of_an_earlier_version_that_is_cut_is_told(tmp_path: Path) -> None:
    torch.save(content(4), tmp_path / "checkpoint.pt")
    os.truncate(tmp_path / "checkpoint.pt", 900)
    with pytest.raises(ValueError, match=r"every checkpoint .*\(checkpoint\.pt\)"):
        Checkpoints(tmp_path).newest()
