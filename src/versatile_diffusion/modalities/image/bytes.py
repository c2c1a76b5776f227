"""Stripping of image files to what decoding needs, on byte level, before Pillow opens them."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

PNG, JPEG, BOXES = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"ftyp"
TEXTS = (b"tEXt", b"zTXt", b"iTXt")
PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"acTL", b"fcTL", b"fdAT", b"IEND")
MOST_CHUNKS = 500_000  # in a PNG file
MOST_PROFILE = 16_000_000  # bytes, colour profile
MOST_TEXT = 64_000_000  # bytes, text chunk
MOST_EXIF = 65_536  # bytes, the limit of a JPEG segment; Pillow copies everything a directory points to
SCAN, EXIF = b"\xff\xda", b"Exif\0\0"


def png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, start and end (length and checksum included) of each chunk of a PNG file until it ends or breaks."""
    start = len(PNG)
    for _ in range(MOST_CHUNKS):
        if start + 12 > len(data):
            return
        kind, end = data[start + 4 : start + 8], start + 12 + int.from_bytes(data[start : start + 4])
        yield kind, start, end
        if kind == b"IEND":
            return
        start = end
    raise ValueError(f"more than {MOST_CHUNKS:,} chunks")


def png_pixels(data: bytes) -> tuple[bytes, bytes | None]:
    """Return a PNG file reduced to its pixel data, and its compressed colour profile, if any.

    Pillow refuses the whole image if a text or profile exceeds a megabyte decompressed.
    """
    kept, profile = [data[: len(PNG)]], None
    for kind, start, end in png_chunks(data):
        if kind == b"iCCP" and profile is None:
            profile = data[start + 8 : end - 4]
        elif kind in PIXELS or (kind == b"eXIf" and end - start <= MOST_EXIF):
            kept.append(data[start:end])
    return b"".join(kept), profile


def png_profile(chunk: bytes) -> bytes:
    """Return the colour profile of an iCCP chunk; zlib.error if damaged or larger than `MOST_PROFILE`."""
    return _inflate(chunk.partition(b"\0")[2][1:], MOST_PROFILE)


def png_text(data: bytes, key: str) -> str | None:
    """Return a PNG file's text under a key; None if there is none. Other texts are skipped, however large.

    Raises:
        zlib.error, UnicodeDecodeError: damaged, or larger than `MOST_TEXT`.
    """
    for kind, start, end in png_chunks(data):
        name, _, content = data[start + 8 : end - 4].partition(b"\0") if kind in TEXTS else (b"", b"", b"")
        if name != key.encode("latin-1"):
            continue
        if kind == b"tEXt":
            return content.decode("latin-1")
        if kind == b"zTXt":
            return _inflate(content[1:], MOST_TEXT).decode("latin-1")
        packed, text = content[:1] == b"\1", content[2:].split(b"\0", 2)[-1]
        return (_inflate(text, MOST_TEXT) if packed else text).decode("utf-8")
    return None


def _inflate(packed: bytes, most: int) -> bytes:
    machine = zlib.decompressobj()
    whole = machine.decompress(packed, most)
    if machine.unconsumed_tail or not machine.eof:
        raise zlib.error(f"truncated, or larger than {most:,} bytes")
    return whole


def jpeg_pixels(data: bytes) -> bytes:
    """Drop EXIF segments of a JPEG file after the first: Pillow joins them, and their directories could exhaust
    memory."""
    kept, start, seen = [data[:2]], 2, False
    while data[start : start + 1] == b"\xff" and data[start : start + 2] != SCAN:
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4])
        exif = data[start + 1] == 0xE1 and data[start + 4 : start + 10] == EXIF
        if not (exif and seen):
            kept.append(data[start:end])
        start, seen = end, seen or exif
    return b"".join([*kept, data[start:]])


def avif_pixels(data: bytes) -> bytes:
    """Hide the EXIF data of an AVIF file; the container itself has the orientation."""
    kept, start = [], 0
    while start + 16 <= len(data):
        size, head = int.from_bytes(data[start : start + 4]), data[start + 4 : start + 8]
        size = int.from_bytes(data[start + 8 : start + 16]) if size == 1 else size or len(data)
        end = start + max(size, 8)
        box = data[start:end]
        kept.append(box.replace(b"Exif", b"none") if head in (b"meta", b"moov") else box)
        start = end
    return b"".join([*kept, data[start:]])
