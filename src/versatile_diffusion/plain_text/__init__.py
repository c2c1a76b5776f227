"""Plain text from bytes of any encoding, without control characters."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from versatile_diffusion.plain_text import encodings
from versatile_diffusion.plain_text.encodings import CANDIDATES, CONTROLS, UnsureError
from versatile_diffusion.printable import shown

__all__ = [
    "CANDIDATES",
    "MOST_BYTES",
    "NO_FILE",
    "NO_TEXT",
    "TOO_LARGE",
    "UNKNOWN",
    "UnusableError",
    "clean",
    "decode",
    "read_bounded",
]

MOST_BYTES = 1 << 20
"""Maximum bytes of an item's captions, and of its description."""
NO_TEXT = "captions that are not text"
UNKNOWN = "captions in an unknown encoding"
TOO_LARGE = "captions too large"
NO_FILE = "captions that cannot be read"

SPACES = re.compile(r"[\t\n\v\f\r]+")
ESCAPED = re.compile("[\udc80-\udcff]")
SURROGATES = re.compile("[\ud800-\udfff]")


class UnusableError(ValueError):
    """An unusable item or caption.

    Args:
        kind: category by which such items are counted.
        detail: what is wrong with this item, if more specific.
    """

    def __init__(self, kind: str, detail: str = ""):
        super().__init__(detail or kind)
        self.kind = kind


def decode(data: bytes, encoding: str | None = None) -> tuple[str, str]:
    """Decode a text, and return its encoding; see `encodings.decode`.

    Raises:
        UnusableError: not in the given encoding, or an unknown encoding.
    """
    try:
        return encodings.decode(data, encoding)
    except UnsureError as error:
        raise UnusableError(UNKNOWN, str(error)) from error


def clean(text: Any, encoding: str | None = None) -> tuple[str, tuple[str, ...]]:
    """Return a caption in one line without control characters, and notes on changes. Bytes are decoded.

    Raises:
        UnusableError: not a string, or undecodable characters.
    """
    if isinstance(text, bytes):
        text = decode(text, encoding)[0]
    if not isinstance(text, str):
        raise UnusableError(NO_TEXT, f"a caption must be a string, not {shown(text)} ({type(text).__name__})")
    if len(text) > MOST_BYTES:
        raise UnusableError(TOO_LARGE, f"a caption of {len(text):,} characters; at most {MOST_BYTES:,} are read")
    notes: list[str] = []
    if ESCAPED.search(text) and not SURROGATES.search(ESCAPED.sub("", text)):  # bytes that are not UTF-8
        text, told = decode(text.encode("utf-8", "surrogateescape"))
        notes.append(f"captions read as {told}")
    if SURROGATES.search(text) or "\ufffd" in text:
        raise UnusableError(UNKNOWN, f"a caption has undecodable characters: {text!a:.60}")
    if CONTROLS.search(text):
        notes.append("captions without their control characters")
    return CONTROLS.sub("", SPACES.sub(" ", text.strip())).strip(), tuple(notes)


def read_bounded(file: Path, most: int = MOST_BYTES) -> bytes:
    """Read a file.

    Raises:
        UnusableError: unreadable, or larger than `most` bytes.
    """
    try:
        with file.open("rb") as opened:
            data = opened.read(most + 1)
    except OSError as error:
        raise UnusableError(NO_FILE, f"{file.name} cannot be read ({error.strerror})") from error
    if len(data) > most:
        raise UnusableError(TOO_LARGE, f"{file.name} has more than {most:,} bytes")
    return data
