"""What becomes of an output: pictures are saved with their settings inside, texts printed and, where asked, saved."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import torch

from versatile_diffusion.cli.console import note, show
from versatile_diffusion.cli.files import free_path, grid, next_number, save_at_once
from versatile_diffusion.cli.options import STDOUT, Options
from versatile_diffusion.cli.preview import preview
from versatile_diffusion.sampling.metadata import parse_record, read_record, save_png
from versatile_diffusion.sampling.output import Output


@dataclass(frozen=True)
class Place:
    """Where the results of one run go.

    Args:
        folder: pictures to ./out where it is None (texts to no file); `STDOUT` for the one picture's bytes.
        stem: what the files are called after.
        asked: all that was asked for, where the results are to be found again: then they are numbered from 1, and
            written over. Else numbers go on from those that are there.
    """

    folder: Path | None
    stem: str
    asked: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Result:
    """What was made: texts, files written, and a remark for people where there is something to say."""

    files: tuple[Path, ...] = ()
    texts: tuple[str, ...] = ()
    grid: Path | None = None
    remark: str = ""

    def as_json(self) -> dict[str, Any]:
        """Plain JSON, without what is empty."""
        grid = str(self.grid) if self.grid else None
        plain = {"texts": list(self.texts), "files": [str(file) for file in self.files], "grid": grid}
        return {name: value for name, value in plain.items() if value}

    def show(self, wanted: bool | None) -> None:
        """For people: names of the files, and the pictures themselves where they are `wanted` (see `preview`)."""
        from PIL import Image

        for file in (*self.files, *([self.grid] if self.grid else [])):
            show(str(file))
        if self.grid or self.files:
            with Image.open(self.grid or self.files[0]) as picture:
                preview(picture, wanted)
        if self.remark:
            note(self.remark)


def record(item: Output, model: str) -> dict[str, Any]:
    """What a saved item says of its making: its settings, how its model was asked for, and what rounding depends on."""
    return {**item.settings, "from_pretrained": model, "threads": torch.get_num_threads()}


def write_pictures(place: Place, output: Output, model: str) -> Result:
    """Write `stem-NNNN.png` for each item, and `grid.png` of several; no grid where they are to be found again."""
    if place.folder == STDOUT:
        save_png(output.images[0], sys.stdout.buffer, record(output[0], model))
        return Result()
    if place.asked is not None:
        files = named_pictures(place, len(output))
        for file, item in zip(files, output, strict=True):
            told = {**record(item, model), "asked": place.asked}
            save_at_once(file, partial(save_png, item.images[0], record=told))
        return Result(files=files)
    folder = place.folder or Path("out")
    folder.mkdir(parents=True, exist_ok=True)
    first = next_number(folder, place.stem)
    files = tuple(folder / f"{place.stem}-{first + k:04d}.png" for k in range(len(output)))
    for file, item in zip(files, output, strict=True):
        with file.open("xb") as stream:  # fails rather than write over a file
            save_png(item.images[0], stream, record(item, model))
    sheet = free_path(folder / "grid.png") if len(output) > 1 else None
    if sheet:
        save_png(grid(output.images), sheet, record(output, model))
    kept = f"{folder} already held {place.stem}-{first - 1:04d}.png; nothing is written over, numbers go on from there"
    return Result(files=files, grid=sheet, remark=kept if first > 1 else "")


def named_pictures(place: Place, count: int) -> tuple[Path, ...]:
    """Where the pictures are to be found again."""
    return tuple((place.folder or Path("out")) / f"{place.stem}-{k + 1:04d}.png" for k in range(count))


def find_pictures(place: Place, count: int) -> tuple[Result, Any] | None:
    """The pictures of an earlier run and what it was asked for; None unless all are there."""
    from PIL import Image

    files = named_pictures(place, count)
    if not all(file.exists() for file in files):
        return None
    with Image.open(files[0]) as picture:
        return Result(files=files), read_record(picture, files[0]).get("asked")


def one_line(text: str) -> str:
    """A text without line breaks, as it is printed and saved."""
    return " ".join(text.split())


def write_texts(place: Place, output: Output, model: str) -> Result:
    """The texts; in a folder also as `stem-NNNN.txt`, one a line, and `stem-NNNN.json` with the settings (without the
    number where they are to be found again)."""
    texts = tuple(one_line(text) for text in output.texts)
    if place.folder is None or place.folder == STDOUT:
        return Result(texts=texts)
    stem = place.folder / place.stem
    if place.asked is None:
        stem = stem.with_name(f"{stem.name}-{next_number(stem.parent, stem.name):04d}")
    asked = {} if place.asked is None else {"asked": place.asked}
    told = {"texts": texts, **record(output, model), **asked}
    contents = {
        ".txt": "".join(f"{text}\n" for text in texts),
        ".json": json.dumps(told, ensure_ascii=False, indent=2) + "\n",
    }
    files = tuple(stem.with_name(stem.name + suffix) for suffix in contents)
    for file, content in zip(files, contents.values(), strict=True):
        save_at_once(file, partial(_put, content))
    return Result(files=files, texts=texts)


def _put(content: str, stream: BinaryIO) -> None:
    stream.write(content.encode())


def find_texts(place: Place, count: int) -> tuple[Result, Any] | None:
    """The texts of an earlier run and what it was asked for; None if they are not there, or only printed."""
    if place.folder is None or place.folder == STDOUT:
        return None
    files = tuple(place.folder / f"{place.stem}{suffix}" for suffix in (".txt", ".json"))
    if not all(file.exists() for file in files):
        return None
    told = parse_record(files[1].read_text(encoding="utf-8"), files[1])
    return Result(files=files, texts=tuple(told.get("texts", ()))), told.get("asked")


@dataclass(frozen=True)
class Kind:
    """How outputs of one modality are written and found again."""

    write: Callable[[Place, Output, str], Result]
    find: Callable[[Place, int], tuple[Result, Any] | None]


KINDS: Mapping[str, Kind] = {"image": Kind(write_pictures, find_pictures), "text": Kind(write_texts, find_texts)}


def check_place(options: Options, data: str, many: bool = False) -> None:
    """ValueError unless there is a place to write to: a folder, or stdout for one picture."""
    from versatile_diffusion.cli.files import check_folder

    if not options.to_stdout:
        return check_folder(options.out or Path("out"))
    if options.json:
        raise ValueError("--out - and --json would both write to stdout; give one of them")
    if data == "image" and (many or options.count > 1):
        raise ValueError("--out - writes one picture to stdout, and more are asked for; give a folder")
    if data == "image" and sys.stdout.isatty():
        raise ValueError("--out - writes a picture to stdout, which is the terminal; send it on: > FILE, or | PROGRAM")
