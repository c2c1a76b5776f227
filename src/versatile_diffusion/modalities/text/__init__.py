"""Text modality: strings; latents are one vector. Its record is in `modalities/records.py`."""

from __future__ import annotations

import os
import re
import warnings
from bisect import bisect_left
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from torch import nn

from versatile_diffusion.layers.attention import context_layers
from versatile_diffusion.layers.fc import fc_layer
from versatile_diffusion.layers.plan import Stage
from versatile_diffusion.modalities.records import TEXT as TEXT
from versatile_diffusion.plain_text import CANDIDATES, UnusableError, clean, decode, read_bounded
from versatile_diffusion.printable import shown
from versatile_diffusion.reading import reading

if TYPE_CHECKING:
    from tokenizers import Tokenizer


MOST_BYTES = 64 << 20
"""Maximum size of a text file."""


def text_data_stream(
    plan: tuple[Stage, ...],
    *,
    time_width: int,
    norm_groups: int,
    width: int = 768,
    positions: int = 4,
    gain: float = 1.0,
) -> nn.ModuleList:
    """Build FC residual blocks for latents of width `width`, which context blocks see as `positions` tokens.

    `gain` is the initial scale of a new stream. A stream added to trained context streams should start at the scale
    that they expect; otherwise their output would swamp the latent.
    """
    options = {"width": width, "positions": positions, "time_width": time_width, "norm_groups": norm_groups}
    return nn.ModuleList(fc_layer(stage, gain=gain, **options) for stage in plan)


def text_context_stream(plan: tuple[Stage, ...], *, norm_groups: int, heads: int, width: int = 768) -> nn.ModuleList:
    """Build context blocks for text tokens of width `width`."""
    return context_layers(plan, width=width, heads=heads, norm_groups=norm_groups)


HALF = re.compile("[\ud800-\udfff]")


def check_text(value: Any) -> str:
    """Check and return a text.

    Raises:
        ValueError: not a string, or it has lone surrogates, which no tokenizer accepts.
    """
    if not isinstance(value, str):
        raise ValueError(f"a text must be a str, not {type(value).__name__}")
    if half := HALF.search(value):
        raise ValueError(
            f"a text has a lone surrogate (U+{ord(half[0]):04X}), a sign of bytes that are not UTF-8: {shown(value)}"
        )
    return value


def truncate_text(text: str, fits: Callable[[str], bool]) -> str:
    """Truncate the text to the most leading words that fit; if the first word alone is too long, as in scripts without
    spaces, to its leading characters."""
    if fits(text):
        return text
    words = text.split()
    short = " ".join(words[: _most(len(words) - 1, lambda count: fits(" ".join(words[:count])))])
    if short or not words:
        return short
    return words[0][: _most(len(words[0]) - 1, lambda count: fits(words[0][:count]))]


def _most(top: int, fits: Callable[[int], bool]) -> int:
    """Return the largest number up to `top` for which `fits` (monotone) holds; 0 if none."""
    return bisect_left(range(1, top + 1), True, key=lambda number: not fits(number))


def read_tokenizer(file: Path) -> Tokenizer:
    """Load a `tokenizer.json`.

    Raises:
        ValueError: a damaged file.
    """
    from tokenizers import Tokenizer  # only models with text need it

    with reading(file, "a tokenizer"):
        return Tokenizer.from_file(str(file))


def one_line(text: str) -> str:
    """Return a text without line breaks, as it is printed and saved."""
    return " ".join(text.split())


def normalise_text(text: str) -> str:
    """Normalise case and spaces, so that duplicates compare equal."""
    return one_line(text.lower())


def lines_of(file: Path) -> list[str]:
    """Read the texts of a file, one per line, skipping blank lines.

    Raises:
        ValueError: a missing or empty file, or an unknown encoding.
    """
    name = os.fsencode(file).decode("utf-8", "backslashreplace")
    if not file.is_file():
        raise ValueError(f"{name}: no such file")
    return _lines(read_bounded(file, MOST_BYTES), name)


def read_stream(stream: BinaryIO, name: str) -> list[str]:
    """Read the texts of a stream, one per line."""
    return _lines(stream.read(), name)


def _lines(data: bytes, name: str) -> list[str]:
    try:
        text, encoding = decode(data)
        texts = [clean(line)[0] for line in text.split("\n")]
    except UnusableError as error:
        raise ValueError(f"{name}: {error}") from error
    if not any(texts):
        raise ValueError(f"{name} contains no text")
    if encoding in CANDIDATES:
        warnings.warn(f"{name} is not in UTF-8; reading it as {encoding}", stacklevel=2)
    return [text for text in texts if text]


def write_line(text: str, stream: BinaryIO, chunks: Mapping[str, str]) -> None:
    """Write a text as a line. Undecodable bytes of file names become `\\udce9`, which JSON can read back."""
    stream.write(f"{one_line(text)}\n".encode("utf-8", "backslashreplace"))
