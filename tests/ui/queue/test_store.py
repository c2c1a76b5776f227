"""The studio's folder, and those of studios that are no more."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from processes import process

from versatile_diffusion.ui.queue.store import LOCK, remove_abandoned, remove_leftovers, studio_folder, used_bytes

HOLD = """
import time
from versatile_diffusion.ui.queue.store import studio_folder
with studio_folder() as folder:
    print(folder, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_it_is_private_and_gone_in_the_end(scratch: Path) -> None:
    with studio_folder() as folder:
        assert folder.parent == scratch
        assert folder.stat().st_mode & 0o077 == 0
        (folder / "a" / "b").mkdir(parents=True)
        with studio_folder():
            assert folder.is_dir()  # a second studio leaves it alone
    assert list(scratch.iterdir()) == []


def test_folders_of_killed_studios_are_removed_and_of_others_not(scratch: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(scratch)}
    command = [sys.executable, "-c", HOLD]
    with process(command, stdout=subprocess.PIPE, env=environment) as studio:
        assert studio.stdout is not None
        folder = Path(studio.stdout.readline().strip())
        (folder / "upload.png").write_bytes(b"0")
        assert remove_abandoned(scratch) == []
        studio.kill()
        studio.wait(timeout=600)
    with studio_folder() as mine:
        assert list(scratch.iterdir()) == [mine]


def test_what_is_not_a_studios_stays(scratch: Path) -> None:
    new, old, link = (scratch / f"versatile-ui-{name}" for name in ("new", "old", "link"))
    (kept := scratch / "elsewhere").mkdir()
    (kept / "file").touch()
    new.mkdir()  # one that starts just now has no lock yet
    old.mkdir()
    link.symlink_to(kept)
    (scratch / "versatile-ui-file").touch()
    os.utime(old, (0, 0))
    assert remove_abandoned(scratch) == [old]
    assert {path.name for path in scratch.iterdir()} == {
        "versatile-ui-new",
        "versatile-ui-link",
        "elsewhere",
        "versatile-ui-file",
    }
    assert (kept / "file").exists()


def test_small_files_take_room_too(tmp_path: Path) -> None:
    assert used_bytes(tmp_path) == 0
    (tmp_path / "a").mkdir()
    for k in range(50):
        (tmp_path / "a" / str(k)).write_bytes(b"0")
    (tmp_path / "large").write_bytes(os.urandom(300_000))
    assert 300_050 <= used_bytes(tmp_path) < 1_000_000


def test_leftovers_go_and_what_is_in_use_stays(tmp_path: Path) -> None:
    ages = {
        "broken-off": 100,
        "begun": 10,
        LOCK: 9000,
        "old/a.png": 1000,
        "new/a.png": 100,
        "results/shelf/text-to-image-0001.png": 9000,
    }
    for name, age in ages.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    (tmp_path / "empty").mkdir()
    os.utime(tmp_path / "empty", (0, 0))
    remove_leftovers(tmp_path, unused=500, broken_off=60)
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    assert left == ages.keys() - {"broken-off", "old/a.png"}
    assert not (tmp_path / "empty").exists()
    os.utime(tmp_path / "old", (0, 0))
    remove_leftovers(tmp_path, unused=500, broken_off=60)
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"new", "results"}
