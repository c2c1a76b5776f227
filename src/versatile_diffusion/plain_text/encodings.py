"""Detection of text encodings: byte order mark, UTF-8, or the only plausible decoding."""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Iterable

from versatile_diffusion.plain_text.alphabets import are_common, plausible
from versatile_diffusion.printable import shown

BOMS = (  # UTF-32 first: its marks begin with those of UTF-16
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
WIDE = {"utf-32-le": (0, 4), "utf-32-be": (3, 4), "utf-16-le": (0, 2), "utf-16-be": (1, 2)}
"""Wide encodings without a mark: index of the non-zero byte in Latin letters, and bytes per character."""
NAMES = """
cp1252 cp1250 cp1251 gb18030 cp932 cp949 big5 euc_jp cp1253 cp1254 cp1257 cp1255 cp1256 cp1258 cp874
iso8859_15 iso8859_2 iso8859_5 iso8859_7 iso8859_16 koi8_r koi8_u cp437 cp850 cp852 cp855 cp857 cp866 cp775 cp737
mac_roman mac_latin2 mac_croatian mac_romanian mac_turkish mac_iceland mac_greek mac_cyrillic utf-16-le utf-16-be
"""
CANDIDATES = tuple(NAMES.split())
"""Encodings used before UTF-8, most likely first."""
ASCII = frozenset(b" abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ\n")
MANY = 24
"""Number of bytes beyond ASCII from which letter frequencies are reliable."""
MOST_GUESSES = 3
CONTROLS = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ufeff]")  # U+0085 is text


class UnsureError(ValueError):
    """Ambiguous encoding; the message has the candidates."""


def python_name(encoding: str) -> str:
    """Return Python's name of an encoding.

    Raises:
        ValueError: an unknown encoding.
    """
    try:
        found = codecs.lookup(encoding)
        if not isinstance(b"".decode(found.name), str) or not found._is_text_encoding:
            raise LookupError
    except (LookupError, ValueError, TypeError) as error:
        raise ValueError(
            f"unknown encoding {shown(encoding)}; e.g. utf-8, {', '.join(CANDIDATES[:8])} or iso8859_2"
        ) from error
    return found.name


def decode(data: bytes, encoding: str | None = None) -> tuple[str, str]:
    """Decode a text and return its encoding: as given, by byte order mark, as UTF-8, or by unambiguous detection.

    Raises:
        UnsureError: not in the given encoding, or an ambiguous one.
    """
    told = encoding_by_mark(data) or encoding or encoding_by_zeros(data) or "utf-8"
    try:
        text = data.decode(told)
    except (UnicodeDecodeError, LookupError) as error:
        if told != "utf-8" or encoding:
            raise UnsureError(f"not a text in {told} ({getattr(error, 'reason', error)})") from error
        return _detect(data)
    if 4 * len(CONTROLS.findall(text)) > len(text) > text.count("\0") or (not encoding and _may_be_wide(data)):
        wide = readings(data, WIDE)
        if len(wide) == 1 and not encoding:
            return next(iter(wide.items()))
        raise UnsureError(f"not a plausible text in {told}; it may be in UTF-16 without a byte order mark")
    return text, told


def encoding_by_mark(data: bytes) -> str | None:
    """Return the encoding of a byte order mark."""
    return next((encoding for bom, encoding in BOMS if data.startswith(bom)), None)


def encoding_by_zeros(data: bytes) -> str | None:
    """Detect UTF-16 or UTF-32, with or without byte order mark, by the positions of zero bytes."""
    if marked := encoding_by_mark(data):
        return marked
    if b"\0" not in data:
        return None
    for encoding, (place, width) in WIDE.items():
        rest = [data[k::width] for k in range(width) if k != place]
        letters = data[place::width]
        if len(data) % width == 0 and letters.count(0) == 0 and all(2 * r.count(0) > len(r) for r in rest):
            return encoding
    return None


def _may_be_wide(data: bytes) -> bool:
    """Return whether every other byte is the same non-letter: UTF-16 of one script with all bytes below 128."""
    return (
        len(data) >= 6
        and len(data) % 2 == 0
        and any(
            len(set(data[k::2])) == 1 and data[k] in b"\t\n\v\f\r0" and len(set(data[1 - k :: 2])) > 1 for k in (0, 1)
        )
    )


def _detect(data: bytes) -> tuple[str, str]:
    """Decode a text that is not UTF-8: the only plausible decoding, or for long texts the best fit."""
    if any(_is_utf8(line) for line in data.split(b"\n") if not line.isascii()):
        raise UnsureError("some lines are UTF-8 and others are not")
    found = readings(data)
    if len(sure := [text for text in found if are_common(text)]) == 1:
        return sure[0], found[sure[0]]
    if len(found) > 1 and (best := _by_frequency(data, found)):
        return best, found[best]
    if len(found) == 1:
        return next(iter(found.items()))
    if not found:
        raise UnsureError("not a text in UTF-8 or any other known encoding")
    guesses = [f"{shown(text[:40])} in {encoding}" for text, encoding in list(found.items())[:MOST_GUESSES]]
    more = f" or {len(found) - MOST_GUESSES} others" if len(found) > MOST_GUESSES else ""
    raise UnsureError(f"not a text in UTF-8, and its encoding is ambiguous: {', '.join(guesses)}{more}")


def readings(data: bytes, candidates: Iterable[str] = CANDIDATES) -> dict[str, str]:
    """Return the possible decodings of bytes, each with its most likely encoding."""
    found: dict[str, str] = {}
    for encoding in candidates:
        if encoding in WIDE and 2 * sum(byte in ASCII for byte in data) > len(data):
            continue
        try:
            text = unicodedata.normalize("NFC", data.decode(encoding))
        except UnicodeDecodeError:
            continue
        if text not in found and not CONTROLS.search(text) and plausible(text, encoding):
            found[text] = encoding
    return found


def _by_frequency(data: bytes, found: dict[str, str]) -> str | None:
    """Return the only decoding of a long text that fits a language best."""
    from charset_normalizer import from_bytes

    if sum(byte >= 128 for byte in data) < MANY:
        return None
    matches = list(from_bytes(data, cp_isolation=list(found.values())))
    best = {unicodedata.normalize("NFC", str(m)) for m in matches if (m.chaos, m.coherence) == _fit(matches[0])}
    return best.pop() if len(best) == 1 and best <= found.keys() else None


def _fit(match: object) -> tuple[float, float]:
    return match.chaos, match.coherence  # type: ignore[attr-defined]


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
