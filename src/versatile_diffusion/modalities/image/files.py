"""Image file reading: size limits, allowed formats, one decode."""

from __future__ import annotations

import os
import time
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial
from io import BytesIO
from itertools import islice
from typing import Any, BinaryIO

from PIL import Image, UnidentifiedImageError

from versatile_diffusion.modalities.image.bytes import (
    BOXES,
    JPEG,
    MOST_EXIF,
    PNG,
    SCAN,
    avif_pixels,
    jpeg_pixels,
    png_pixels,
    png_profile,
    png_text,
)
from versatile_diffusion.printable import brief

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")
"""Formats Pillow may detect, regardless of suffix: never EPS, which starts Ghostscript. MPO is JPEG."""
MOST_PIXELS = 64_000_000
MOST_BYTES = 512_000_000
MOST_SCANNED = 2_000_000_000  # pixels times scans of a JPEG file; progressive files have about ten scans
MOST_SECONDS = 10.0  # CPU time to read one file
SPARE_BYTES = 64_000_000  # allowance for repeated reads, besides reading the file twice
BLOCK = 1 << 20

File = str | os.PathLike[str] | bytes | BinaryIO
"""Forms of an image file: a path, its content, or an open binary file."""


class UnknownFormatError(ValueError):
    """The file is not an image, or not in one of `FORMATS`."""


class NotPixelsError(ValueError):
    """The image has no pixels, or invalid levels; it may be intact."""


class TooLargeError(ValueError):
    """The image has too many pixels or bytes, or takes too long to read."""


class _Metered(BytesIO):
    """File content with a limit on repeated reads and time: a small file can refer to the same bytes thousands of
    times."""

    def __init__(self, data: bytes):
        super().__init__(data)
        self.left = 2 * len(data) + SPARE_BYTES
        self.until = time.thread_time() + MOST_SECONDS

    def read(self, size: int | None = -1) -> bytes:
        found = super().read(size)
        self.left -= len(found)
        if self.left < 0 or time.thread_time() > self.until:
            raise TooLargeError("reading it takes too long; re-save it with another program")
        return found


def is_file(value: Any) -> bool:
    """Return whether `open_image` accepts this type."""
    return isinstance(value, str | os.PathLike | bytes | bytearray) or hasattr(value, "read")


def name_of(file: Any) -> str:
    """Return the name of an image for messages."""
    if isinstance(file, str | os.PathLike):
        return brief(os.fsdecode(file))
    name = getattr(file, "name", None)
    return brief(name) if isinstance(name, str) and name else "the image"


def open_image(file: Any, name: str = "", side: int | None = None) -> Image.Image:
    """Open an image file and decode its first frame, unconverted.

    Args:
        file: path, file content or open binary file.
        name: name for messages; by default the path.
        side: sufficient side in pixels; much larger JPEG files are decoded at reduced size.

    Raises:
        UnknownFormatError: not an image, or an unsupported format.
        TooLargeError: too many pixels or bytes, or too slow to read.
        ValueError: a missing or damaged file.
    """
    name = name or name_of(file)
    data = _bytes_of(file, name)
    with one_sentence(name):
        picture = _open(data, name)
        check_size(picture)
        if picture.format == "JPEG" and picture.width * picture.height * data.count(SCAN) > MOST_SCANNED:
            raise TooLargeError(
                f"it has {data.count(SCAN)} scans of {picture.width} x {picture.height}, which is too many"
            )
        if side and max(picture.size) > 2 * side:
            picture.draft("RGB", (side, side))
        decode(picture)
    return picture


def read_text(file: Any, key: str, name: str = "") -> str | None:
    """Return the text of a PNG file under a key; None if there is none, or for other formats."""
    name = name or name_of(file)
    data = _bytes_of(file, name)
    with one_sentence(name):
        if data.startswith(PNG):
            return png_text(data, key)
        _open(data, name)  # raises if it is not an image
        return None


def decode(picture: Image.Image) -> None:
    """Decode the current frame, unless done already."""
    try:
        picture.load()
    except ValueError:
        if picture.format != "PNG" or getattr(picture, "tile", None):
            raise  # pixels are complete; only a text chunk after them is too large


def check_size(picture: Image.Image) -> None:
    """Raise TooLargeError above `MOST_PIXELS`, NotPixelsError for an empty image."""
    if not picture.width * picture.height:
        raise NotPixelsError(f"it has no pixels ({picture.width} x {picture.height})")
    if picture.width * picture.height > MOST_PIXELS:
        size = f"{picture.width} x {picture.height}"
        raise TooLargeError(f"{size} is too large; at most {MOST_PIXELS:,} pixels are allowed")


@contextmanager
def one_sentence(name: str) -> Iterator[None]:
    """Convert any exception of Pillow to a ValueError that names the image."""
    try:
        yield
    except (TooLargeError, UnknownFormatError, NotPixelsError) as error:
        raise type(error)(f"{name}: {error}") from error
    except (Image.DecompressionBombError, MemoryError) as error:
        raise TooLargeError(f"{name}: the image is too large; at most {MOST_PIXELS:,} pixels are allowed") from error
    except UnidentifiedImageError as error:
        raise UnknownFormatError(f"{name}: not an image in a known format ({', '.join(_formats())})") from error
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ValueError(f"{name}: the image is damaged or truncated ({reason})") from error


def remark(name: str, message: str) -> None:
    """Warn about an image that is readable only in part."""
    warnings.warn(f"{name}: {message}", stacklevel=2)


@cache
def _formats() -> tuple[str, ...]:
    """Return those of `FORMATS` that this Pillow supports."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _open(data: bytes, name: str) -> Image.Image:
    profile = None
    if data.startswith(PNG):
        data, profile = png_pixels(data)
    elif data.startswith(JPEG):
        data = jpeg_pixels(data)
    elif data[4:8] == BOXES:
        data = avif_pixels(data)
    picture = Image.open(_Metered(data), formats=_formats())
    if profile is not None:
        try:
            picture.info["icc_profile"] = png_profile(profile)
        except zlib.error as error:
            remark(name, f"the colour profile cannot be read ({error}); assuming sRGB")
    if len(picture.info.get("exif", b"")) > MOST_EXIF and picture.format != "TIFF":
        del picture.info["exif"]
        remark(name, f"ignoring its EXIF data of over {MOST_EXIF:,} bytes")
    return picture


def _bytes_of(file: Any, name: str) -> bytes:
    if isinstance(file, bytes | bytearray):
        data = bytes(file)
    elif isinstance(file, str | os.PathLike):
        if not os.path.isfile(file):  # unlike pathlib, os.path takes any string
            raise ValueError(f"{name}: no such image file")
        try:
            too_large = os.path.getsize(file) > MOST_BYTES
            with open(file, "rb") as opened:
                data = b"" if too_large else _read(opened)
        except OSError as error:
            raise ValueError(f"{name}: the image cannot be read ({error.strerror or error})") from error
        if too_large:
            raise _too_many_bytes(name)
    else:
        if getattr(file, "seekable", bool)():
            file.seek(0)
        if not isinstance(file.read(0), bytes):
            raise ValueError(f"{name}: opened in text mode; use mode 'rb'")
        data = _read(file)
    if len(data) > MOST_BYTES:
        raise _too_many_bytes(name)
    return data


def _too_many_bytes(name: str) -> TooLargeError:
    return TooLargeError(f"{name}: the file is too large; at most {MOST_BYTES:,} bytes are allowed")


def _read(file: BinaryIO) -> bytes:
    """Read a file up to one block beyond the limit."""
    blocks = islice(iter(partial(file.read, BLOCK), b""), MOST_BYTES // BLOCK + 2)
    return b"".join(blocks)
