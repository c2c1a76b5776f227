"""Checkpoints of a run: written atomically, verified when read, the last few kept."""

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
"""Marker near the end of a checkpoint, followed by the hexadecimal hash of all bytes before it."""
SEAL_LENGTH = len(SEAL) + 64
CHUNK = 2**20


class Checkpoints:
    """`checkpoints/STEP.pt` in the run's folder; `checkpoint.pt` links to the newest.

    A checkpoint ends with the hash of its content, after the archive that `torch.save` writes (`torch.load` ignores
    it). So one rename publishes both, and a file never exists without its own hash. The hash of the whole file is also
    written to `STEP.pt.sha256`, for `sha256sum --check`; it is used only for checkpoints of earlier versions, which
    have no other. The first version had a single file `checkpoint.pt` without a hash; it can still be read.

    Args:
        out: the run's folder.
        keep: number of intact checkpoints to keep.
        background: write in a thread, from a copy; `wait` (or the next call) raises its errors.
    """

    def __init__(self, out: Path, keep: int = 2, background: bool = False):
        self.folder, self.link, self.keep = out / "checkpoints", out / "checkpoint.pt", keep
        self.thread = ThreadPoolExecutor(1) if background else None
        self.pending: Future[None] | None = None
        self.verified: dict[Path, tuple[int, ...]] = {}

    def save(self, content: dict[str, Any], step: int) -> None:
        """Write a checkpoint with `torch.save`; an interrupted write does not affect earlier ones.

        Raises:
            OSError: it could not be written, for example because the disk is full.
        """
        self.wait()
        if self.thread is None:
            self._write(content, step)
            return
        copy = tree_map_only(Tensor, lambda tensor: tensor.detach().to("cpu", copy=True), content)
        self.pending = self.thread.submit(self._write, copy, step)

    def wait(self) -> None:
        """Wait until everything is written."""
        if self.pending is not None:
            pending, self.pending = self.pending, None
            pending.result()

    def newest(self) -> Path | None:
        """The newest intact checkpoint; None if there is none. Skipped files are reported on stderr.

        Raises:
            ValueError: every checkpoint is damaged.
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
            raise ValueError(f"every checkpoint of {self.link.parent} is damaged ({names}); remove them to start over")
        return None

    def _write(self, content: dict[str, Any], step: int) -> None:
        self.folder.mkdir(exist_ok=True)
        self._sweep()
        path = self.folder / f"{step:07d}.pt"
        temporary = path.with_suffix(".tmp")
        try:
            with _SealedFile(temporary) as file:
                torch.save(content, file)  # type: ignore[arg-type]
            with suppress(OSError):  # optional
                write_whole(_beside(path), lambda new: new.write_text(f"{file.hash.hexdigest()}  {path.name}\n"))
            if path.is_dir():  # not a checkpoint
                path.rename(path.with_suffix(".folder"))
            os.replace(temporary, path)
        except (OSError, RuntimeError) as error:  # torch raises RuntimeError for failed writes
            temporary.unlink(missing_ok=True)
            raise OSError(
                f"the checkpoint of step {step} could not be written to {self.folder} ({error}); "
                f"{still_there(self.folder.parent)}; free some space and run the same command again"
            ) from error
        self.verified[path] = _version(path)
        self._point_at(path)
        self._prune(step)

    def _sweep(self) -> None:
        """Remove incomplete files of killed runs to free space."""
        orphans = [path for path in self.folder.glob("*.pt.sha256") if not path.with_suffix("").exists()]
        for left in [*self.folder.glob("*.tmp"), *orphans]:
            with suppress(OSError):
                left.unlink()

    def _prune(self, step: int) -> None:
        """Keep the newest intact checkpoints up to `step`, and damaged ones between them. Later steps, from which the
        run could not resume, are kept and not counted."""
        whole = 0
        for path in reversed([path for path in _checkpoints(self.folder) if int(path.stem) <= step]):
            if whole < self.keep:
                whole += self._fault(path) is None
                continue
            with suppress(OSError):
                path.unlink()
                _beside(path).unlink(missing_ok=True)

    def _fault(self, path: Path) -> str | None:
        """Why a run cannot resume from a file; None if it can. Files are read again only if they have changed."""
        try:
            version = _version(path)
            if self.verified.get(path) == version:
                return None
            if not path.is_file():
                return "is not a file"
            found, told = _hashes(path)
            if found != told and (told or path != self.link):
                return f"is damaged (its SHA-256 is {found[:8]}..., not {told[:8]}...)" if told else "has no SHA-256"
            step = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["step"]
        except Exception as error:  # damaged files may raise anything
            return f"cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
        if path != self.link and step != int(path.stem):
            return f"holds step {step}"
        self.verified[path] = version
        return None

    def _point_at(self, path: Path) -> None:
        temporary = self.link.with_suffix(".link")
        with suppress(OSError):  # file systems without links
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(path.relative_to(self.link.parent))
            os.replace(temporary, self.link)


class _SealedFile:
    """A new file that hashes what is written; on closing it appends the hash and syncs to disk."""

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
    """The checkpoints of a run as a message."""
    return f"available checkpoints: {', '.join(path.name for path in _checkpoints(out / 'checkpoints')) or 'none'}"


def _checkpoints(folder: Path) -> list[Path]:
    """Files with the name of a checkpoint, by step."""
    found = [path for path in folder.glob("*.pt") if re.fullmatch("[0-9]{7,}", path.stem)]
    return sorted((path for path in found if path.stem == f"{int(path.stem):07d}"), key=lambda path: int(path.stem))


def _pass_over(path: Path, why: str) -> None:
    tqdm.write(printable(f"{path} {why}: skipped"), file=sys.stderr)


def _version(path: Path) -> tuple[int, ...]:
    """Version of a file, which changes when it is written again."""
    told = path.stat()
    return told.st_ino, told.st_size, told.st_mtime_ns


def _beside(path: Path) -> Path:
    return path.with_suffix(".pt.sha256")


def _hashes(path: Path) -> tuple[str, str | None]:
    """The actual and the expected hash of a file; the latter from its end, else from `STEP.pt.sha256`."""
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
