"""Command-line inputs: prompts, files, folders and stdin."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from versatile_diffusion.cli.io.console import note
from versatile_diffusion.data.listing import PACKED, in_words, list_folder, printable, summarise
from versatile_diffusion.modalities import MODALITIES, Modality

EMBEDDINGS = ".safetensors"
STDIN = "-"
LONGEST_NAME = 40


@dataclass(frozen=True)
class Input:
    """One input value.

    Args:
        value: a prompt, an image or its file, or embeddings.
        label: name shown to the user: the file, or the prompt itself.
        stem: base name of the output files, below the same subfolders as the input.
        file: source file; None if typed or read from stdin.
        problem: why it could not be read; empty if it could.
    """

    value: Any
    label: str
    stem: str
    file: Path | None = None
    problem: str = ""


@dataclass(frozen=True)
class Inputs:
    """All inputs of an argument.

    Args:
        items: at least one.
        many: whether several were asked for; a folder of one image counts as many.
        bad: inputs in a folder that cannot be read.
    """

    items: tuple[Input, ...]
    many: bool
    bad: tuple[Input, ...] = ()


def inputs_of(modality: str, given: Sequence[str]) -> Inputs:
    """Return all inputs in the given order, folders sorted by name.

    Raises:
        ValueError: a folder without usable files, a missing file, a text of unknown encoding, or stdin twice.
    """
    if list(given).count(STDIN) > 1:
        raise ValueError(f"{STDIN} (stdin) is given twice; it can be read only once")
    found = tuple(_named_apart(one for text in given for one in _inputs(modality, text)))
    items, bad = (tuple(one for one in found if bool(one.problem) == is_bad) for is_bad in (False, True))
    if not items:
        raise ValueError(bad[0].problem)
    return Inputs(items, len(found) > 1 or any(os.path.isdir(text) for text in given), bad)


def one_input(modality: str, given: str) -> Input:
    """Return the single input that an argument gives.

    Raises:
        ValueError: as for `inputs_of`, or the argument gives several.
    """
    found = inputs_of(modality, [given])
    if found.many:
        raise ValueError(f"{given} has several inputs; only the last argument of a task may have several")
    return found.items[0]


def _inputs(modality: str, given: str) -> Iterator[Input]:
    record = MODALITIES.get(modality)
    if given == STDIN:
        if record is None or record.from_stream is None:
            able = [name for name, known in MODALITIES.items() if known.from_stream is not None]
            raise ValueError(f"{STDIN} (stdin) can provide {' or '.join(able)}, not {modality}; give a file")
        yield from _from_stdin(record)
    elif os.path.isdir(given):  # unlike pathlib, os.path takes any string
        files = list(files_in(Path(given), modality))
        if not files:
            endings = ", ".join(sorted(record.suffixes if record else ()))
            raise ValueError(f"{given} is a folder without {modality} files ({endings or 'no known suffix'})")
        for file in files:
            stem = file.relative_to(given).with_suffix("").as_posix()
            try:
                yield from _of_file(modality, file, stem)
            except ValueError as error:
                yield Input(None, printable(file), stem, file, str(error))
    elif record is None or given.endswith(EMBEDDINGS) or not is_typed(record, given):
        yield from _of_file(modality, Path(given), Path(given).stem)
    else:
        yield _input_of_text(given)


def is_typed(record: Modality, given: str) -> bool:
    """Return whether an argument is the value itself rather than a file name."""
    return record.form == "typed" and not given.lower().endswith(record.suffixes)


def _of_file(modality: str, file: Path, stem: str) -> Iterator[Input]:
    """Yield the values in a file: one, or as many as its modality reads from it."""
    if file.suffix == EMBEDDINGS:
        from versatile_diffusion.records.embeddings import load_embeddings

        yield Input(load_embeddings(str(file)), printable(file), stem, file)
    elif modality in MODALITIES and file.suffix.lower() in MODALITIES[modality].suffixes:
        record = MODALITIES[modality]
        for value in record.read(file):
            yield (
                replace(_input_of_text(value), file=file) if record.plain else Input(value, printable(file), stem, file)
            )
    else:
        yield Input(str(file), printable(file), stem, file)


def _input_of_text(text: str) -> Input:
    return Input(text, text, name_of(text))


def _named_apart(items: Iterable[Input]) -> Iterator[Input]:
    """Yield the items, adding a number to repeated stems."""
    last: dict[str, int] = {}
    taken: set[str] = set()
    for item in items:
        stem, number = item.stem, last.get(item.stem, 1)
        while stem in taken:  # the numbered name may be taken, too
            number += 1
            stem = f"{item.stem}-{number}"
        last[item.stem] = number
        taken.add(stem)
        yield replace(item, stem=stem)


def _from_stdin(record: Modality) -> Iterator[Input]:
    """Yield the values read from stdin."""
    name = "stdin"
    assert record.from_stream is not None
    for value in record.from_stream(_stdin().buffer, name):
        yield _input_of_text(value) if record.plain else Input(value, name, name)


def _stdin() -> Any:
    """Return stdin, with a hint if it is a terminal."""
    if sys.stdin.isatty():
        note("reading from the terminal; finish with Ctrl-D")
    return sys.stdin


def files_in(folder: Path, modality: str | None = None) -> Iterator[Path]:
    """Yield the files of a modality (of any readable one if None) below a folder, sorted; report what is skipped."""
    listing = list_folder(folder)
    other = [listing.name(file) for file in listing.files if file.suffix.lower() in PACKED]
    known = [record for record in MODALITIES.values() if modality in (None, record.name)]
    found = list(listing.of(ending for record in known for ending in record.suffixes))
    own = [file for file in found if is_sheet(file)]
    reasons = {**listing.left_out, "archives": other, "sheets and replays": [listing.name(file) for file in own]}
    if left_out := summarise(reasons):
        note(f"skipped in {printable(folder)}: {in_words(left_out)}")
    yield from (file for file in found if file not in own)


SHEET = re.compile(r"(grid|sweep|sheet)(-\d+)?\.png|.*-replay(-\d+)?\.png")
"""Names that commands give to sheets of several images, and to images made again."""


def is_sheet(file: Path) -> bool:
    """Whether a file is a sheet or a replay that a command wrote, which is no image of its own."""
    if not SHEET.fullmatch(file.name):
        return False
    from versatile_diffusion.records.png import read_record

    try:
        return bool(read_record(file))
    except (ValueError, OSError):
        return False


def name_of(text: str) -> str:
    """Return a file name for a text: its first words and a hash."""
    words = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:LONGEST_NAME].strip("-")
    return "-".join(filter(None, (words, sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:8])))
