"""The studio's folder: made when it starts, gone when it ends, and never larger than allowed."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

PREFIX = "versatile-ui-"
LOCK = ".lock"
RESULTS = "results"  # the folder inside it that `Shelves` keeps
UNLOCKED_FOR = 24 * 3600  # seconds after which a folder without a lock counts as left behind
BLOCK = 512  # bytes, as systems count them


@contextmanager
def studio_folder() -> Iterator[Path]:
    """A folder that only this user can read, for as long as the context lasts.

    It is locked until this process ends, however it ends, so that the next studio sees what became of it: folders of
    studios that were killed are removed first.
    """
    remove_abandoned(Path(tempfile.gettempdir()))
    with (
        tempfile.TemporaryDirectory(prefix=PREFIX, ignore_cleanup_errors=True) as name,
        (Path(name) / LOCK).open("w") as lock,
    ):
        _try_lock(lock)
        yield Path(name)


def remove_abandoned(parent: Path) -> list[Path]:
    """Removes folders of this user's studios that run no more; those that it removed."""
    gone = []
    for folder in parent.glob(f"{PREFIX}*"):
        with suppress(OSError):
            if _is_own(folder) and not _is_in_use(folder):
                shutil.rmtree(folder)
                gone.append(folder)
    return gone


def _is_own(folder: Path) -> bool:
    return folder.is_dir() and not folder.is_symlink() and (os.name == "nt" or folder.stat().st_uid == os.getuid())


def _is_in_use(folder: Path) -> bool:
    lock = folder / LOCK
    if not lock.exists():  # one that starts just now, or is of a version without locks
        return time.time() - folder.stat().st_mtime < UNLOCKED_FOR
    with lock.open("r+") as opened:
        return not _try_lock(opened)


def _try_lock(file: IO[str]) -> bool:
    """Takes the lock of a file, which ends with the process at the latest; False where another process has it."""
    try:
        import fcntl
    except ImportError:  # no such locks on this system, where open files cannot be removed
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def used_bytes(folder: Path) -> int:
    """What a folder takes on the disk, small files and folders too."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            state = path.lstat()
            total += max(getattr(state, "st_blocks", 0) * BLOCK, state.st_size)
    return total


def remove_leftovers(folder: Path, unused: float, broken_off: float) -> None:
    """Removes uploads, but no results, of some age, and folders that are empty.

    Args:
        folder: the studio's.
        unused: seconds after which an upload goes.
        broken_off: seconds after which one goes that was not finished, which nobody knows of.
    """
    now = time.time()
    for path in sorted(folder.rglob("*"), reverse=True):  # what is in a folder comes before it
        with suppress(OSError):
            age = now - path.lstat().st_mtime
            if path.name == LOCK or path.is_relative_to(folder / RESULTS):
                continue
            if path.is_dir() and age > broken_off:
                path.rmdir()  # those with something inside stay
            elif path.is_file() and age > (broken_off if path.parent == folder else unused):
                path.unlink()
