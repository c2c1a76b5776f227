"""The checkpoints of a run: written whole or not at all, verified when read, the last few kept."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only
from tqdm import tqdm

from versatile_diffusion.files import write_whole
from versatile_diffusion.printable import printable

SEAL = b"SHA-256 "
"""Begins the last bytes of a checkpoint; the hash, in hexadecimal digits, of all bytes before it follows."""
SEAL_LENGTH = len(SEAL) + 64
CHUNK = 2**20


class Checkpoints:
    """`checkpoints/STEP.pt` below the run's folder; `checkpoint.pt` points at the newest.

    A checkpoint ends with the hash of what it holds, behind the archive that `torch.save` writes (`torch.load` reads
    the archive alone). So one rename brings both, and no moment has a file without its hash or with another's. The
    hash of the whole file also stands beside it in `STEP.pt.sha256`, for `sha256sum --check`; it decides only where
    there is no other, in checkpoints of earlier versions. The first of these had a plain file `checkpoint.pt` alone,
    without a hash; it is read all the same.

    Args:
        out: the run's folder.
        keep: how many whole ones stay.
        background: write in a thread, from a copy; `wait` (or the next call) raises what went wrong there.
    """

    def __init__(self, out: Path, keep: int = 2, background: bool = False):
        self.folder, self.link, self.keep = out / "checkpoints", out / "checkpoint.pt", keep
        self.thread = ThreadPoolExecutor(1) if background else None
        self.pending: Future[None] | None = None
        self.verified: dict[Path, tuple[int, ...]] = {}

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
        """The newest checkpoint that is whole; None if there has been none. What is passed over is named on stderr.

        Raises:
            ValueError: there are some, and all are damaged.
        """
        found = _checkpoints(self.folder)
        for path in sorted(set(self.folder.glob("*.pt")) - set(found)):
            _pass_over(path, "is not named STEP.pt")
        if self.link.is_file() and not self.link.is_symlink():
            found.insert(0, self.link)
        for path in reversed(found):
            if (fault := self._fault(path)) is None:
                return path
            _pass_over(path, fault)
        if found:
            names = ", ".join(path.name for path in found)
            raise ValueError(f"every checkpoint of {self.link.parent} is damaged ({names}); to begin anew remove them")
        return None

    def _write(self, content: dict[str, Any], step: int) -> None:
        self.folder.mkdir(exist_ok=True)
        self._sweep()
        path = self.folder / f"{step:07d}.pt"
        temporary = path.with_suffix(".tmp")
        try:
            with _SealedFile(temporary) as file:
                torch.save(content, file)  # type: ignore[arg-type]
            with suppress(OSError):  # nothing that a run needs
                write_whole(_beside(path), lambda new: new.write_text(f"{file.hash.hexdigest()}  {path.name}\n"))
            if path.is_dir():  # nothing of ours
                path.rename(path.with_suffix(".folder"))
            os.replace(temporary, path)
        except (OSError, RuntimeError) as error:  # torch has its own error for a write that failed
            temporary.unlink(missing_ok=True)
            raise OSError(
                f"the checkpoint of step {step} could not be written to {self.folder} ({error}); "
                f"{still_there(self.folder.parent)}; make room and start the same command again"
            ) from error
        self.verified[path] = _version(path)
        self._point_at(path)
        self._prune(step)

    def _sweep(self) -> None:
        """Removes what killed runs left half-done, which makes room."""
        orphans = [path for path in self.folder.glob("*.pt.sha256") if not path.with_suffix("").exists()]
        for left in [*self.folder.glob("*.tmp"), *orphans]:
            with suppress(OSError):
                left.unlink()

    def _prune(self, step: int) -> None:
        """Leaves the newest whole ones up to `step`, and what lies between them. Those of later steps could not be gone
        on from: they stay, and take nobody's place."""
        whole = 0
        for path in reversed([path for path in _checkpoints(self.folder) if int(path.stem) <= step]):
            if whole < self.keep:
                whole += self._fault(path) is None
                continue
            with suppress(OSError):
                path.unlink()
                _beside(path).unlink(missing_ok=True)

    def _fault(self, path: Path) -> str | None:
        """What keeps a run from going on from a file; None if nothing does. A file is read again only if it changed."""
        try:
            version = _version(path)
            if self.verified.get(path) == version:
                return None
            if not path.is_file():
                return "is no file"
            found, told = _hashes(path)
            if found != told and (told or path != self.link):
                return f"is damaged (its SHA-256 is {found[:8]}..., not {told[:8]}...)" if told else "has no SHA-256"
            step = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["step"]
        except Exception as error:  # whatever a damaged file makes of its reader
            return f"cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
        if path != self.link and step != int(path.stem):
            return f"holds step {step}"
        self.verified[path] = version
        return None

    def _point_at(self, path: Path) -> None:
        temporary = self.link.with_suffix(".link")
        with suppress(OSError):  # a disk without links does without
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(path.relative_to(self.link.parent))
            os.replace(temporary, self.link)


class _SealedFile:
    """A new file whose bytes are hashed on their way; it ends with their hash, and is on the disk when it is closed."""

    def __init__(self, path: Path):
        self.file, self.hash = path.open("wb"), hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        return self.file.write(data)

    def flush(self) -> None:
        self.file.flush()

    def __enter__(self) -> _SealedFile:
        return self

    def __exit__(self, *error: object) -> None:
        try:
            if error[0] is None:
                self.write(SEAL + self.hash.hexdigest().encode())
                self.file.flush()
                os.fsync(self.file.fileno())
        finally:
            self.file.close()


def still_there(out: Path) -> str:
    """Which checkpoints a run has, for people."""
    return f"still there: {', '.join(path.name for path in _checkpoints(out / 'checkpoints')) or 'no checkpoint'}"


def _checkpoints(folder: Path) -> list[Path]:
    """What is named like a checkpoint, by step."""
    found = [path for path in folder.glob("*.pt") if re.fullmatch("[0-9]{7,}", path.stem)]
    return sorted((path for path in found if path.stem == f"{int(path.stem):07d}"), key=lambda path: int(path.stem))


def _pass_over(path: Path, why: str) -> None:
    tqdm.write(printable(f"{path} {why}: passed over"), file=sys.stderr)


def _version(path: Path) -> tuple[int, ...]:
    """Another one whenever a file was written again."""
    told = path.stat()
    return told.st_ino, told.st_size, told.st_mtime_ns


def _beside(path: Path) -> Path:
    return path.with_suffix(".pt.sha256")


def _hashes(path: Path) -> tuple[str, str | None]:
    """The hash of what a file holds, and the one that it should have: from its end, or else from beside it."""
    with path.open("rb") as file:
        length = max(0, os.fstat(file.fileno()).st_size - SEAL_LENGTH)
        file.seek(length)
        seal = file.read()
        file.seek(0)
        if seal.startswith(SEAL):
            digest = hashlib.sha256()
            while part := file.read(min(CHUNK, length - file.tell())):
                digest.update(part)
            return digest.hexdigest(), seal.removeprefix(SEAL).decode(errors="replace")
        found = hashlib.file_digest(file, "sha256").hexdigest()
    beside = _beside(path)
    told = beside.read_text(errors="replace").split() if beside.is_file() else []
    return found, next(iter(told), None)
