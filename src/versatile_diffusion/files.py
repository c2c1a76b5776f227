"""Atomic writing of files and folders; full disks are reported in one line."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


def write_whole(path: Path, write: Callable[[Path], Any], contested: bool = False, durable: bool = True) -> None:
    """Write a file atomically; an existing file is kept until the new one is complete.

    Args:
        path: output file; its folder must exist.
        write: writes a file at the given path.
        contested: whether other processes may write the file at the same time; the last one wins.
        durable: whether to wait until the disk has it; otherwise a power cut could leave an empty file.
    """
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part") if contested else draft_of(path)
    try:
        draft.touch()
        mode = draft.stat().st_mode  # default permissions; safetensors writes owner-only files
        write(draft)
        draft.chmod(mode)
        if durable:
            with draft.open("rb+") as file:
                os.fsync(file.fileno())
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def write_json(file: Path, value: Mapping[str, Any], durable: bool = True) -> None:
    """Write a JSON object atomically, creating its folder. Args: durable: see `write_whole`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(value, ensure_ascii=False, indent=1) + "\n"
    write_whole(file, lambda part: part.write_text(text, encoding="utf-8"), durable=durable)


def write_whole_folder(folder: Path, write: Callable[[Path], Any]) -> None:
    """Write a folder atomically. In an existing folder, entries of the same names are replaced one by one once all new
    ones are complete; others are kept.

    Args:
        folder: output folder.
        write: writes to a given empty folder.
    """
    draft = draft_of(folder)
    shutil.rmtree(draft, ignore_errors=True)  # left by a killed call
    try:
        write(draft)
        if not folder.is_dir():
            os.replace(draft, folder)
            return
        for entry in draft.iterdir():
            old = folder / entry.name
            if old.is_dir() and not old.is_symlink():
                shutil.rmtree(old)
            os.replace(entry, old)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def draft_of(path: Path) -> Path:
    """Return the temporary name of an incomplete file or folder. A run removes leftovers of a killed one."""
    return path.with_name(f"{path.name}.tmp")


@contextmanager
def writing(folder: Path, safe: Callable[[], str]) -> Iterator[None]:
    """Convert errors of a full disk below `folder` to one error with advice; `safe` describes what is already written.

    Raises:
        OSError: a full disk.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        if not _full(error):
            raise
        raise OSError(
            f"{folder} could not be written to ({error}); {safe()}; free some space and run the same command again"
        ) from error


def _full(error: OSError | SafetensorError) -> bool:
    if isinstance(error, OSError):
        return error.errno in FULL
    found = re.search(r"\(os error (\d+)\)", str(error))  # safetensors has the number only in its message
    return found is not None and int(found[1]) in FULL
