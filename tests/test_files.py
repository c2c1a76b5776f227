"""Which errors say that a disk takes no more."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from safetensors import SafetensorError

from versatile_diffusion.files import write_whole, write_whole_folder, writing

FULL = [
    OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    SafetensorError("Error while serializing: I/O error: Disk quota exceeded (os error 122)"),
]
OTHER = [
    OSError(errno.EACCES, os.strerror(errno.EACCES)),
    OSError("no number"),
    SafetensorError("Error while serializing: I/O error: No such file or directory (os error 2)"),
    SafetensorError("Error while serializing: I/O error: Permission denied (os error 13)"),
    SafetensorError("Error while deserializing header: I/O error: No such file or directory (os error 2)"),
    SafetensorError("Error while deserializing header: header too small"),
]


@pytest.mark.parametrize("error", FULL, ids=str)
def test_a_full_disk_is_told_with_what_is_safe(error: Exception) -> None:
    message = r"^out could not be written to \(.*\); all is safe; free some space"
    with pytest.raises(OSError, match=message) as told, writing(Path("out"), lambda: "all is safe"):
        raise error
    assert told.value.__cause__ is error


@pytest.mark.parametrize("error", OTHER, ids=str)
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as told, writing(Path("out"), lambda: "all is safe"):
        raise error
    assert told.value is error


def test_a_file_is_there_whole_or_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "it.json"
    write_whole(file, lambda new: new.write_text("old"))

    def break_off(new: Path) -> None:
        new.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(file, break_off)
    assert ([*tmp_path.iterdir()], file.read_text()) == ([file], "old")


def test_a_folder_is_there_whole_or_as_it_was(tmp_path: Path) -> None:
    folder = tmp_path / "model"

    def write(new: Path, text: str = "new", fail: bool = False) -> None:
        (new / "unet").mkdir(parents=True)
        (new / "unet" / "weights").write_text(text)
        (new / "index").write_text(text)
        if fail:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole_folder(folder, lambda new: write(new, fail=True))
    assert [*tmp_path.iterdir()] == []
    (tmp_path / "model.tmp" / "unet").mkdir(parents=True)  # of a call that was killed
    write_whole_folder(folder, lambda new: write(new, "old"))
    (folder / "mine").write_text("kept")
    (folder / "unet" / "of an earlier layout").write_text("")
    with pytest.raises(KeyboardInterrupt):
        write_whole_folder(folder, lambda new: write(new, fail=True))
    assert ((folder / "index").read_text(), (folder / "unet" / "weights").read_text()) == ("old", "old")
    write_whole_folder(folder, write)
    found = {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}
    assert found == {"mine": "kept", "index": "new", "unet/weights": "new"}
    assert [*tmp_path.iterdir()] == [folder]
