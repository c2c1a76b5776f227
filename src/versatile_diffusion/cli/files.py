"""Files that commands write: numbered, and never over a file that is there already."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

if TYPE_CHECKING:
    from PIL import Image

GAP = 2
GAP_COLOUR = (208, 208, 208)
SMALLEST_TILE = 192
FILE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".txt", ".json"})


def check_folder(path: Path) -> None:
    """ValueError unless `path` is a folder, or can become one."""
    if str(path) == "-":
        raise ValueError("--out - (stdout) is for a single picture; give a folder")
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    if not there.is_dir() and there != path:
        raise ValueError(f"--out is {path}, and {there} is a file; it must be a folder (a new one is made)")
    if there.is_dir() and not os.access(there, os.W_OK):
        raise ValueError(f"--out is {path}, and nothing can be written to {there}")
    if path.exists() and not path.is_dir():
        raise ValueError(f"--out is {path}, which is a file; it must be a folder (a new one is made)")
    if not path.exists() and path.suffix.lower() in FILE_SUFFIXES:
        raise ValueError(f"--out is {path}, which looks like a file; it must be a folder (a new one is made)")


def next_number(folder: Path, stem: str) -> int:
    """The first number of which no `stem-NNNN*` file exists, and none after it."""
    taken = [file.name[len(stem) + 1 :][:4] for file in folder.glob(f"{stem}-[0-9][0-9][0-9][0-9]*")]
    return max((int(number) for number in taken if number.isdigit()), default=0) + 1


def free_path(path: Path) -> Path:
    """`path` if there is no such file, else the first free of `name-2`, `name-3`, ..."""
    if not path.exists():
        return path
    candidates = (path.with_stem(f"{path.stem}-{number}") for number in itertools.count(2))
    return next(candidate for candidate in candidates if not candidate.exists())


def save_at_once(target: Path, write: Callable[[BinaryIO], Any]) -> None:
    """A file that is either whole or not there."""
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.part")
    try:
        with unfinished.open("wb") as stream:
            write(stream)
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


def grid(images: Sequence[Image.Image], columns: int | None = None) -> Image.Image:
    """One sheet of all pictures, nearly square or in `columns`, with thin gaps; tiny ones are enlarged."""
    from PIL import Image

    width, height = images[0].size
    factor = max(1, math.ceil(SMALLEST_TILE / width))
    width, height = width * factor, height * factor
    columns = columns or math.ceil(math.sqrt(len(images)))
    rows = math.ceil(len(images) / columns)
    sheet = Image.new("RGB", (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP), GAP_COLOUR)
    for place, image in enumerate(images):
        row, column = divmod(place, columns)
        tile = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
        sheet.paste(tile, (column * (width + GAP), row * (height + GAP)))
    return sheet
