"""Escaping of untrusted text for terminals and messages."""

from __future__ import annotations

import math
import re
import reprlib
from typing import Any

# Control characters (C0 and C1 are interpreted by terminals), line separators, bidirectional controls, and lone
# surrogates, which stand for undecodable bytes of file names.
_COMMANDS = "\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff"
UNPRINTABLE = re.compile(f"[{_COMMANDS}]")
UNPRINTABLE_IN_A_LINE = re.compile(f"[\n{_COMMANDS}]")


def printable(text: str) -> str:
    """Return the text in one line, with control characters as Python escapes; tabs are kept."""
    return UNPRINTABLE_IN_A_LINE.sub(_escape, text)


def printable_lines(text: str) -> str:
    """Escape a text of several lines, keeping line breaks."""
    return UNPRINTABLE.sub(_escape, text)


def printable_json(text: str) -> str:
    """Escape control characters in JSON text without changing its meaning."""
    return UNPRINTABLE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


MOST_SHOWN, MOST_NAME = 100, 300
"""Maximum length of a value, and of a file name, in a message."""
_LONGEST_INT = 40


class _Short(reprlib.Repr):
    """`repr` that never formats long values in full."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = self.maxdeque = 6
        self.maxdict, self.maxlevel, self.maxstring, self.maxother = 4, 4, MOST_SHOWN - 2, MOST_SHOWN

    def repr_int(self, x: int, level: int) -> str:
        if abs(x) < 10**_LONGEST_INT:
            return repr(x)
        exponent = math.log10(abs(x))  # Python limits int to str conversion to a few thousand digits
        return f"an int of about {'-' if x < 0 else ''}1e+{int(exponent)}"

    def repr_bytes(self, x: bytes, level: int) -> str:
        short = x[: self.maxstring // 4]
        return repr(x) if len(short) == len(x) else f"{short!r}... ({len(x):,} bytes)"

    repr_bytearray = repr_bytes

    def repr_instance(self, x: Any, level: int) -> str:
        shape, dtype = getattr(x, "shape", None), getattr(x, "dtype", None)
        if isinstance(shape, tuple) and dtype is not None and math.prod(shape) > 8:  # arrays and tensors
            return f"<{type(x).__name__} {tuple(shape)} of {dtype}>"
        return super().repr_instance(x, level)


_SHORT = _Short()


def shown(value: Any) -> str:
    """Format a value for a message: its `repr` in one line, shortened in the middle; for arrays shape and dtype."""
    return brief(" ".join(_SHORT.repr(value).split()), MOST_SHOWN)


def brief(text: str, most: int = MOST_NAME) -> str:
    """Shorten a text, e.g. a file name, in the middle."""
    return text if len(text) <= most else f"{text[: most // 2 - 2]}...{text[2 - most // 2 :]}"
