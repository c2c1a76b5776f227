"""Output files: numbered, and never overwriting an existing file."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from versatile_diffusion.files import write_whole
from versatile_diffusion.modalities import MODALITIES

Write = Callable[[BinaryIO], Any]
"""Function that writes a file's content to a stream."""

FILE_SUFFIXES = frozenset({".jpg", ".jpeg", ".webp", ".json"})
"""Output suffixes besides those of the modalities."""


def check_folder(path: Path) -> None:
    """Raise ValueError unless `path` is a folder or can be created as one."""
    if str(path) == "-":
        raise ValueError("--out - (stdout) can write only one image; use a folder")
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not there.is_dir() and there != path:
        raise ValueError(f"--out is {path}, but {there} is a file; it must be a folder (created if missing)")
    if there.is_dir() and not os.access(there, os.W_OK):
        raise ValueError(f"--out is {path}, but {there} is not writable")
    if path.exists() and not path.is_dir():
        raise ValueError(f"--out is {path}, which is a file; it must be a folder (created if missing)")
    written = {record.suffix for record in MODALITIES.values()}
    if not path.exists() and path.suffix.lower() in FILE_SUFFIXES | written:
        raise ValueError(f"--out is {path}, which looks like a file; it must be a folder (created if missing)")


def next_number(folder: Path, stem: str) -> int:
    """Return the first number after all existing `stem-NNNN*` files."""
    taken = [file.name[len(stem) + 1 :][:4] for file in folder.glob(f"{stem}-[0-9][0-9][0-9][0-9]*")]
    return max((int(number) for number in taken if number.isdigit()), default=0) + 1


def numbered_names(folder: Path, stem: str, first: int, *suffixes: str) -> Iterator[tuple[Path, ...]]:
    """Yield the file names `stem-NNNN` with each suffix, counting from `first`, for `save_new`."""
    for number in itertools.count(first):
        yield tuple(folder / f"{stem}-{number:04d}{suffix}" for suffix in suffixes)


def variants(path: Path) -> Iterator[tuple[Path]]:
    """Yield `path`, then `name-2`, `name-3`, ... for `save_new`."""
    yield (path,)
    for number in itertools.count(2):
        yield (path.with_stem(f"{path.stem}-{number}"),)


def save_new(names: Iterable[Sequence[Path]], *writes: Write) -> tuple[Path, ...]:
    """Write a group of files under the first names that are all free; return these.

    Creating a file reserves its name: only one of several writers can do that, so nothing is ever overwritten.
    Names are tried in order; an iterator continues from there on the next call.
    """
    files = next(one for one in names if _take(one))
    try:
        for file, write in zip(files, writes, strict=True):
            save_at_once(file, write)
    except BaseException:
        for file in files:
            file.unlink(missing_ok=True)
        raise
    return tuple(files)


def _take(files: Sequence[Path]) -> bool:
    """Create all files or none; False if one exists already."""
    for place, file in enumerate(files):
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            file.open("xb").close()
        except FileExistsError:
            for earlier in files[:place]:
                earlier.unlink()
            return False
    return True


def save_at_once(target: Path, write: Write) -> None:
    """Write a file atomically; with several writers the last one wins."""
    target.parent.mkdir(parents=True, exist_ok=True)

    def written(draft: Path) -> None:
        with draft.open("wb") as stream:
            write(stream)

    write_whole(target, written, contested=True)
