"""What becomes of an output: pictures are saved with their settings inside, texts printed and, where asked, saved."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from versatile_diffusion.cli.files import free_path, grid, next_number
from versatile_diffusion.sampling.metadata import save_png
from versatile_diffusion.sampling.output import Output


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


def record(item: Output, model: str) -> dict[str, Any]:
    """What a saved item says of its making: its settings, how its model was asked for, and what rounding depends on."""
    return {**item.settings, "from_pretrained": model, "threads": torch.get_num_threads()}


def save_pictures(name: str, output: Output, model: str, folder: Path) -> Result:
    """Write `name-NNNN.png` for each item, numbered on from what is there, and `grid.png` where there are several."""
    folder.mkdir(parents=True, exist_ok=True)
    first = next_number(folder, name)
    files = tuple(folder / f"{name}-{first + k:04d}.png" for k in range(len(output)))
    for file, item in zip(files, output, strict=True):
        with file.open("xb") as stream:  # fails rather than write over a file
            save_png(item.images[0], stream, record(item, model))
    sheet = free_path(folder / "grid.png") if len(output) > 1 else None
    if sheet:
        save_png(grid(output.images), sheet, record(output, model))
    kept = f"{folder} already held {name}-{first - 1:04d}.png; nothing is written over, numbers go on from there"
    return Result(files=files, grid=sheet, remark=kept if first > 1 else "")


def one_line(text: str) -> str:
    """A text without line breaks, as it is printed and saved."""
    return " ".join(text.split())


def save_texts(name: str, output: Output, model: str, folder: Path | None) -> Result:
    """The texts; in a folder also as `name-NNNN.txt`, one a line, and `name-NNNN.json` with the settings."""
    texts = tuple(one_line(text) for text in output.texts)
    if folder is None:
        return Result(texts=texts)
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f"{name}-{next_number(folder, name):04d}"
    contents = {
        ".txt": "".join(f"{text}\n" for text in texts),
        ".json": json.dumps({"texts": texts, **record(output, model)}, ensure_ascii=False, indent=2) + "\n",
    }
    files = tuple(stem.with_suffix(suffix) for suffix in contents)
    for file, content in zip(files, contents.values(), strict=True):
        with file.open("x", encoding="utf-8") as stream:
            stream.write(content)
    return Result(files=files, texts=texts)


@dataclass(frozen=True)
class Kind:
    """How outputs of one modality are written, and where to if the user names no folder (None: nowhere)."""

    write: Callable[[str, Output, str, Any], Result]
    folder: Path | None


KINDS: Mapping[str, Kind] = {"image": Kind(save_pictures, Path("out")), "text": Kind(save_texts, None)}
