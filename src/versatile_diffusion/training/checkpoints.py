"""The checkpoints of a run: written whole or not at all, verified when read, the last few kept."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only
from tqdm import tqdm


class Checkpoints:
    """`checkpoints/STEP.pt` below the run's folder, each with its SHA-256 beside; `checkpoint.pt` points at the newest.

    A run of an earlier version has a plain file `checkpoint.pt` in its place, without a hash; it is read all the same.

    Args:
        out: the run's folder.
        keep: how many stay.
        background: write in a thread, from a copy; `wait` (or the next call) raises what went wrong there.
    """

    def __init__(self, out: Path, keep: int = 2, background: bool = False):
        self.folder, self.link, self.keep = out / "checkpoints", out / "checkpoint.pt", keep
        self.thread = ThreadPoolExecutor(1) if background else None
        self.pending: Future[None] | None = None

    def save(self, content: dict[str, Any], step: int) -> None:
        """Writes what `torch.save` can write; an interrupted write leaves those before.

        Raises:
            OSError: it could not be written, for one because the disk is full.
        """
        self.wait()
        if self.thread is None:
            self._write(content, step)
            return
        copy = tree_map_only(Tensor, lambda tensor: tensor.detach().to("cpu", copy=True), content)
        self.pending = self.thread.submit(self._write, copy, step)

    def wait(self) -> None:
        """Until everything is written."""
        if self.pending is not None:
            pending, self.pending = self.pending, None
            pending.result()

    def newest(self) -> Path | None:
        """The newest checkpoint that is whole; None if there has been none.

        Raises:
            ValueError: there are some, and all are damaged.
        """
        found = self._all()
        for path in reversed(found):
            if _hash_of(path) == _told(path):
                return path
            tqdm.write(f"{path} is damaged: going on from the one before", file=sys.stderr)
        if self.link.is_file() and not self.link.is_symlink():
            return self.link
        if found:
            raise ValueError(f"every checkpoint in {self.folder} is damaged; to begin anew remove that folder")
        return None

    def _all(self) -> list[Path]:
        return _checkpoints(self.folder)

    def _write(self, content: dict[str, Any], step: int) -> None:
        self.folder.mkdir(exist_ok=True)
        path = self.folder / f"{step:07d}.pt"
        temporary = path.with_suffix(".tmp")
        try:
            with _HashedFile(temporary) as file:
                torch.save(content, file)  # type: ignore[arg-type]
            _hash_file(path).write_text(f"{file.hash.hexdigest()}  {path.name}\n")
            os.replace(temporary, path)
        except (OSError, RuntimeError) as error:  # torch has its own error for a write that failed
            temporary.unlink(missing_ok=True)
            raise OSError(
                f"the checkpoint of step {step} could not be written to {self.folder} ({error}); "
                f"{still_there(self.folder.parent)}; make room and start the same command again"
            ) from error
        self._point_at(path)
        for old in self._all()[: -self.keep]:
            old.unlink()
            _hash_file(old).unlink(missing_ok=True)
        for left in self.folder.glob("*.tmp"):  # of a run that was killed
            left.unlink()

    def _point_at(self, path: Path) -> None:
        temporary = self.link.with_suffix(".link")
        with suppress(OSError):  # a disk without links does without
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(path.relative_to(self.link.parent))
            os.replace(temporary, self.link)


class _HashedFile:
    """A new file whose bytes are hashed on their way; on the disk when it is closed."""

    def __init__(self, path: Path):
        self.file, self.hash = path.open("wb"), hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()

    def __enter__(self) -> _HashedFile:
        return self

    def __exit__(self, *error: object) -> None:
        try:
            if error[0] is None:
                self.file.flush()
                os.fsync(self.file.fileno())
        finally:
            self.file.close()


def still_there(out: Path) -> str:
    """Which checkpoints a run has, for people."""
    return f"still there: {', '.join(path.name for path in _checkpoints(out / 'checkpoints')) or 'no checkpoint'}"


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.pt"), key=lambda path: int(path.stem))


def _hash_file(path: Path) -> Path:
    return path.with_suffix(".pt.sha256")


def _hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _told(path: Path) -> str | None:
    beside = _hash_file(path)
    return beside.read_text().split()[0] if beside.exists() else None


@contextmanager
def held(out: Path) -> Iterator[None]:
    """Keeps a second run out of the folder; the hold ends with the process, however that ends.

    Raises:
        ValueError: a run is training there.
    """
    try:
        import fcntl
    except ImportError:  # no such locks on this system
        yield
        return
    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another process is training in {out}; stop it first, or give another folder") from None
        except OSError:  # a file system without locks
            pass
        yield
