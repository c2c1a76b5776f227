"""Saving and printing outputs: images with their settings embedded; texts printed, and saved if asked for."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import torch

from versatile_diffusion.cli.io.console import note, show
from versatile_diffusion.cli.io.files import Write, next_number, numbered_names, save_at_once, save_new, variants
from versatile_diffusion.cli.io.preview import preview
from versatile_diffusion.cli.options import STDOUT, CommandOptions
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.pipeline.output import Output
from versatile_diffusion.reading import read_json
from versatile_diffusion.records.png import read_record, save_png, write_value
from versatile_diffusion.sheets import grid

RECORD = ".json"
"""Suffix of the record file beside outputs that cannot embed it."""


@dataclass(frozen=True)
class Place:
    """Destination of a run's results.

    Args:
        folder: output folder; None saves images to ./out and no texts; `STDOUT` writes the single image's bytes.
        stem: base name of the files.
        asked: everything the results depend on, if a later call should find them: then files are numbered from 1 and
            overwritten. Otherwise numbering continues after existing files.
    """

    folder: Path | None
    stem: str
    asked: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Written:
    """Results of a run: texts, written files, and a message for the user if there is one."""

    files: tuple[Path, ...] = ()
    texts: tuple[str, ...] = ()
    grid: Path | None = None
    remark: str = ""

    def as_json(self) -> dict[str, Any]:
        """Plain JSON without empty fields."""
        grid = str(self.grid) if self.grid else None
        plain = {"texts": list(self.texts), "files": [str(file) for file in self.files], "grid": grid}
        return {name: value for name, value in plain.items() if value}

    def show(self, wanted: bool | None) -> None:
        """Print the file names, and preview the first image if `wanted` (see `preview`)."""
        for file in (*self.files, *([self.grid] if self.grid else [])):
            show(str(file))
        first = self.grid or next(iter(self.files), None)
        modality = None if first is None else MODALITIES.of_suffix(first.suffix)
        if modality is not None and modality.draw is not None:
            preview(modality.draw(modality.check(str(first))), wanted)
        if self.remark:
            note(self.remark)


def record(item: Output, model: str) -> dict[str, Any]:
    """Return the record of a saved item: its settings, the model's name and what affects rounding."""
    return {**item.settings, "from_pretrained": model, "threads": torch.get_num_threads()}


def write(place: Place, output: Output, model: str) -> Written:
    """Write an output: all values in one file or one file each, depending on the modality."""
    together = MODALITIES[output.data].together
    return write_texts(place, output, model) if together else write_files(place, output, model)


def find(place: Place, data: str, count: int) -> tuple[Written, Any] | None:
    """Find the results of an earlier run and what was asked for; None if missing or only printed."""
    return find_texts(place, data) if MODALITIES[data].together else find_files(place, data, count)


def write_files(place: Place, output: Output, model: str) -> Written:
    """Write one file `stem-NNNN` per item, with its record embedded or in a JSON file beside it; for several images
    also `grid.png`, unless a later call should find them."""
    modality = MODALITIES[output.data]
    if place.folder == STDOUT:
        write_value(output.data, output.values[0], sys.stdout.buffer, record(output[0], model))
        return Written()
    if place.asked is not None:
        files = named_files(place, output.data, len(output))
        for file, item in zip(files, output, strict=True):
            told = {**record(item, model), "asked": place.asked}
            for each, one in zip(_beside(file, output.data), _writes(item, told), strict=True):
                save_at_once(each, one)
        return Written(files=files)
    folder, sheet = place.folder or Path("out"), None
    first = next_number(folder, place.stem)
    names = numbered_names(folder, place.stem, first, *_suffixes(output.data))
    files = tuple(save_new(names, *_writes(item, record(item, model)))[0] for item in output)
    if len(output) > 1 and modality.embeds and modality.draw is not None:
        drawn = grid([modality.draw(value) for value in output.values])
        all_of_them = partial(save_png, drawn, record=record(output, model))
        (sheet,) = save_new(variants(folder / "grid.png"), all_of_them)
    last = f"{place.stem}-{first - 1:04d}{modality.suffix}"
    kept = f"{folder} already has {last}; existing files are kept and numbering continues"
    return Written(files=files, grid=sheet, remark=kept if first > 1 else "")


def _suffixes(data: str) -> tuple[str, ...]:
    modality = MODALITIES[data]
    return (modality.suffix,) if modality.embeds else (modality.suffix, RECORD)


def _beside(file: Path, data: str) -> list[Path]:
    """Return the files of an item: its value, and its record if not embedded."""
    return [file.with_suffix(suffix) for suffix in _suffixes(data)]


def _writes(item: Output, told: Mapping[str, Any]) -> list[Write]:
    """Return the writers of these files."""
    value: Write = partial(write_value, item.data, item.values[0], record=told)
    document: Write = partial(put, as_document(told))
    return [value, document][: len(_suffixes(item.data))]


def as_document(record: Mapping[str, Any]) -> str:
    """Format a record as JSON."""
    return json.dumps(record, ensure_ascii=False, indent=2) + "\n"


def named_files(place: Place, data: str, count: int) -> tuple[Path, ...]:
    """Return the file names at which a later call looks for these results."""
    folder, suffix = place.folder or Path("out"), MODALITIES[data].suffix
    return tuple(folder / f"{place.stem}-{k + 1:04d}{suffix}" for k in range(count))


def find_files(place: Place, data: str, count: int) -> tuple[Written, Any] | None:
    """Find the files of an earlier run and what was asked for; None unless all exist."""
    files = named_files(place, data, count)
    if not all(each.exists() for file in files for each in _beside(file, data)):
        return None
    return Written(files=files), record_in(files[0]).get("asked")


def record_in(file: Path) -> dict[str, Any]:
    """Read the record of a saved file: embedded, or in the JSON file beside it.

    Raises:
        ValueError: no record.
    """
    modality = MODALITIES.of_suffix(file.suffix)
    if modality is None or modality.embeds:
        return read_record(file)
    beside = file.with_suffix(RECORD)
    if not beside.is_file():
        raise ValueError(f"{beside}: no such file; the record of {file.name} is the {RECORD} beside it")
    return read_json(beside)


def write_texts(place: Place, output: Output, model: str) -> Written:
    """Return the texts; in a folder also write them to `stem-NNNN.txt`, one per line, and `stem-NNNN.json` with the
    settings (no number if a later call should find them)."""
    texts = tuple(MODALITIES[output.data].line(value) for value in output.values)
    if place.folder is None or place.folder == STDOUT:
        return Written(texts=texts)
    stem = place.folder / place.stem
    asked = {} if place.asked is None else {"asked": place.asked}
    told = {"texts": texts, **record(output, model), **asked}
    writes = {
        MODALITIES[output.data].suffix: partial(put, "".join(f"{text}\n" for text in texts)),
        RECORD: partial(put, as_document(told)),
    }
    if place.asked is None:
        names = numbered_names(stem.parent, stem.name, next_number(stem.parent, stem.name), *writes)
        return Written(files=save_new(names, *writes.values()), texts=texts)
    files = tuple(stem.with_name(stem.name + suffix) for suffix in writes)
    for file, write in zip(files, writes.values(), strict=True):
        save_at_once(file, write)
    return Written(files=files, texts=texts)


def put(content: str, stream: BinaryIO) -> None:
    """Write text to a file; undecodable bytes of file names become `\\udce9`, which JSON can read back."""
    stream.write(content.encode("utf-8", "backslashreplace"))


def find_texts(place: Place, data: str) -> tuple[Written, Any] | None:
    """Find the texts of an earlier run and what was asked for; None if missing or only printed."""
    if place.folder is None or place.folder == STDOUT:
        return None
    files = tuple(place.folder / f"{place.stem}{suffix}" for suffix in (MODALITIES[data].suffix, RECORD))
    if not all(file.exists() for file in files):
        return None
    told = read_json(files[1])
    return Written(files=files, texts=tuple(told.get("texts", ()))), told.get("asked")


def check_place(options: CommandOptions, data: str, many: bool = False) -> None:
    """Raise ValueError unless results can be written: to a folder, or one image to stdout."""
    from versatile_diffusion.cli.io.files import check_folder

    if not options.to_stdout:
        return check_folder(options.out or Path("out"))
    if options.json:
        raise ValueError("--out - and --json both write to stdout; use one of them")
    modality = MODALITIES[data]
    if modality.together:  # any number of text lines
        return
    if many or options.count > 1:
        raise ValueError(f"--out - can write only one {modality.noun} to stdout; use a folder for several")
    if sys.stdout.isatty():
        raise ValueError("--out - writes to stdout, which is a terminal; redirect it: > FILE or | PROGRAM")
