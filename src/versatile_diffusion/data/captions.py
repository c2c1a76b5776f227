"""Captions in the forms that data sets use: lines of text, fields of JSON, columns."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from versatile_diffusion.plain_text import (
    CANDIDATES,
    MOST_BYTES,
    TOO_LARGE,
    UnusableError,
    clean,
    decode,
    read_bounded,
)
from versatile_diffusion.printable import shown

__all__ = [
    "CANDIDATES",
    "FIELDS",
    "MOST_BYTES",
    "TOO_LARGE",
    "Captions",
    "UnusableError",
    "captions_in",
    "captions_of",
    "clean",
    "decode",
    "gather",
    "parse",
    "read_bounded",
]

FIELDS = (
    *("captions", "caption", "texts", "text", "prompts", "prompt", "descriptions", "description"),
    *("sentences", "sentence", "alt_text", "txt"),
)
"""Fields that hold a caption or a list of captions; case-insensitive, with or without a numeric suffix (`caption_0`,
`caption_1`). The first field with a caption is used."""
NUMBERED = re.compile(r"[ _-]?(\d{1,4})")

MOST_NAMES = 20
NO_CAPTION = "without a caption"
TOO_LONG = "captions too long"
NO_JSON = "descriptions that are not JSON"


@dataclass(frozen=True)
class Captions:
    """The captions of an image.

    Args:
        texts: at least one.
        notes: repairs that were needed, for the report.
    """

    texts: tuple[str, ...]
    notes: tuple[str, ...] = ()


def gather(values: Iterable[Any], encoding: str | None = None) -> Captions | None:
    """Collect the values that are captions; None if all values are empty.

    Raises:
        UnusableError: no value is a caption, and at least one is invalid.
    """
    texts: list[str] = []
    notes: list[str] = []
    problem: UnusableError | None = None
    for value in values:
        if value is None:
            continue
        try:
            text, more = clean(value, encoding)
        except UnusableError as error:
            problem = error
            notes.append(error.kind)
            continue
        if text:
            texts.append(text)
            notes += more
    if not texts and problem:
        raise problem
    return Captions(tuple(texts), tuple(notes)) if texts else None


def caption_fields(names: Iterable[Any]) -> list[list[str]]:
    """Group the names of caption fields or columns, in the order of `FIELDS`; numbered ones form one group."""
    found: dict[str, list[tuple[int, str]]] = {field: [] for field in FIELDS}
    for name in (name for name in names if isinstance(name, str)):
        lower = name.strip().lower()
        for field in FIELDS:
            number = NUMBERED.fullmatch(lower.removeprefix(field)) if lower.startswith(field) else None
            if lower == field or number:
                found[field].append((int(number[1]) if number else -1, name))
    return [[name for _, name in sorted(numbered)] for numbered in found.values() if numbered]


def captions_of(row: Mapping[str, Any], encoding: str | None = None) -> Captions:
    """The captions of a row or JSON description.

    Raises:
        UnusableError: no caption field, or its value is not text.
    """
    fields = caption_fields(row)
    there = ", ".join(shown(name) for name in list(row)[:MOST_NAMES])
    problem = UnusableError(NO_CAPTION, "" if fields or not row else f"no caption field among {there}")
    for names in fields:
        values = [row[name] for name in names]
        try:
            captions = gather(
                (one for value in values for one in (value if isinstance(value, list | tuple) else [value])), encoding
            )
        except UnusableError as error:
            problem = error
            continue
        if captions:
            return captions
    raise problem


def captions_in(data: bytes, json_: bool, encoding: str | None = None) -> Captions:
    """The captions in a file: a JSON description, or one caption per line.

    Raises:
        UnusableError: it holds none.
    """
    text, told = decode(data, encoding)
    captions = captions_of(parse(text)) if json_ else gather(text.split("\n"))
    if captions is None:
        raise UnusableError(NO_CAPTION)
    if told in CANDIDATES and not encoding:
        return Captions(captions.texts, (*captions.notes, f"captions read as {told}"))
    return captions


def parse(text: str) -> dict[str, Any]:
    """Parse a JSON description.

    Raises:
        UnusableError: not a JSON object, or nested too deeply.
    """
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnusableError(NO_JSON, f"not JSON ({error})") from error
    if not isinstance(row, dict):
        raise UnusableError(NO_JSON, f"expected a JSON object, not {type(row).__name__}")
    return row
