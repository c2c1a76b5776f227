"""The door for image files: one meaning in whatever form, and nothing but a sentence for what cannot be read."""

from __future__ import annotations

import io
import os
import random
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from versatile_diffusion.modalities.image import check_image, check_mask
from versatile_diffusion.modalities.image.files import FORMATS, MOST_PIXELS, TooLargeError, UnknownFormatError

NOISE = Image.fromarray(np.random.default_rng(3).integers(0, 255, (24, 36, 3), np.uint8))
KINDS = {
    "png": "PNG",
    "jpg": "JPEG",
    "jpe": "JPEG",
    "jfif": "JPEG",
    "webp": "WEBP",
    "gif": "GIF",
    "bmp": "BMP",
    "tiff": "TIFF",
    "avif": "AVIF",
    "ppm": "PPM",
}


def bytes_of(picture: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def with_chunk(png: bytes, kind: bytes, content: bytes, last: bool = False) -> bytes:
    """A PNG file with one more chunk: after its header, or after its pixels."""
    place = len(png) - 12 if last else 33
    return png[:place] + chunk(kind, content) + png[place:]


def forms(data: bytes, file: Path) -> dict[str, Callable[[], Any]]:
    """All the forms in which an image file is handed over."""
    file.write_bytes(data)
    return {
        "path": lambda: file,
        "text": lambda: str(file),
        "bytes": lambda: data,
        "bytearray": lambda: bytearray(data),
        "open file": lambda: file.open("rb"),
        "buffer": lambda: io.BytesIO(data),
        "PIL": lambda: Image.open(file),
    }


@pytest.mark.parametrize("ending", KINDS)
def test_every_form_means_the_same(tmp_path: Path, ending: str) -> None:
    seen = forms(bytes_of(NOISE, KINDS[ending]), tmp_path / f"a.{ending}")
    pictures = {name: np.asarray(check_image(value())) for name, value in seen.items()}
    assert all(np.array_equal(picture, pictures["path"]) for picture in pictures.values())
    masks = {name: check_mask(value()) for name, value in seen.items()}
    assert all(np.array_equal(levels, masks["path"]) for levels in masks.values())


def test_what_a_pipe_gives_is_read() -> None:
    reading, writing = os.pipe()
    os.write(writing, bytes_of(NOISE, "PNG"))  # less than a pipe holds
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        assert np.array_equal(check_image(pipe), NOISE)


def test_a_file_opened_as_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"a")
    with (tmp_path / "a.png").open() as opened, pytest.raises(ValueError, match="opened in text mode"):
        check_image(opened)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("kind", [b"zTXt", b"iTXt", b"tEXt"])
def test_large_texts_are_passed_over(kind: bytes, last: bool, tmp_path: Path) -> None:
    text = b"w" * 30_000_000
    packed = zlib.compress(text, 1)
    content = {b"zTXt": b"a\0\0" + packed, b"iTXt": b"a\0\1\0\0\0" + packed, b"tEXt": b"a\0" + text}[kind]
    data = with_chunk(bytes_of(NOISE, "PNG"), kind, content, last)
    assert np.array_equal(check_image(data), NOISE)
    if last:  # the caller could open it, since the text stands after the pixels
        assert np.array_equal(check_image(Image.open(io.BytesIO(data))), NOISE)


def test_the_frames_of_a_png_file_outlive_its_texts(tmp_path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("a", "x" * 3_000_000, zip=True)
    data = bytes_of(NOISE, "PNG", save_all=True, append_images=[NOISE.rotate(90)], pnginfo=info)
    assert np.array_equal(check_image(data), NOISE)


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n"


@pytest.mark.parametrize(
    "data", [EPS, bytes_of(NOISE, "TGA"), bytes_of(NOISE, "PDF"), bytes_of(NOISE, "ICO"), b"", b"no"]
)
def test_other_formats_are_refused_by_name(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(UnknownFormatError, match=r"a\.png: not an image in a known format \(PNG, JPEG"):
        check_image(tmp_path / "a.png")
    assert "EPS" not in FORMATS


def tiff(tags: list[tuple[int, int, int, int]], before: bytes = b"\0", following: int = 0) -> bytes:
    """A TIFF file of one grey pixel with some more tags, whose values may lie in `before`."""
    needed = [(256, 3, 1, 1), (257, 3, 1, 1), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    needed += [(273, 4, 1, 8), (278, 3, 1, 1), (279, 4, 1, 1)]
    rows = b"".join(struct.pack("<HHII", *tag) for tag in sorted([*needed, *tags]))
    directory = struct.pack("<H", len(needed) + len(tags)) + rows + struct.pack("<I", following)
    return b"II*\0" + struct.pack("<I", 8 + len(before)) + before + directory


def test_directories_that_point_to_the_same_bytes_over_and_over() -> None:
    assert check_image(tiff([])).size == (1, 1)
    with pytest.raises(TooLargeError, match="takes too long"):
        check_image(tiff([(1000 + k, 7, 500_000, 8) for k in range(2000)], bytes(500_000)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_data_that_would_fill_the_memory_is_not_read(kind: str) -> None:
    bomb = tiff([(1000 + k, 7, 100_000, 8) for k in range(20_000)], bytes(100_000))
    data = bytes_of(NOISE, kind, **({"lossless": True} if kind == "WEBP" else {}))
    if kind == "PNG":
        full = with_chunk(data, b"eXIf", bomb)
    elif kind == "JPEG":
        pieces = (b"Exif\0\0" + bomb[k : k + 65_000] for k in range(0, len(bomb), 65_000))
        full = data[:2] + b"".join(b"\xff\xe1" + struct.pack(">H", len(p) + 2) + p for p in pieces) + data[2:]
    else:
        full = bytes_of(NOISE, kind, lossless=True, exif=b"Exif\0\0" + bomb)
    tracemalloc.start()
    try:
        shown = check_image(full)
        assert tracemalloc.get_traced_memory()[1] < 50_000_000  # it would be a gigabyte
    finally:
        tracemalloc.stop()
    assert np.array_equal(shown, check_image(data))


def test_a_turned_avif_photo_stands_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.new("RGB", (16, 8), "blue")
    picture.paste("red", (0, 0, 8, 8))
    upright = check_image(bytes_of(picture, "AVIF", exif=exif))
    assert upright.size == (8, 16)
    assert upright.getpixel((4, 2))[0] > 200


def test_a_jpeg_file_with_far_too_many_scans() -> None:
    data = bytes_of(Image.new("L", (4000, 4000)), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    with pytest.raises(TooLargeError, match="scans"):
        check_image(data[:-2] + data[last : last + 20] * 2000 + data[-2:])


def test_sparse_files_are_refused_by_their_size(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    with file.open("wb") as stream:
        stream.write(bytes_of(NOISE, "PNG"))
        stream.truncate(40_000_000_000)
    with pytest.raises(TooLargeError, match=r"a\.png: the file is too large; at most 512,000,000 bytes"):
        check_image(file)


def test_pil_images_are_bounded_too() -> None:
    with pytest.raises(TooLargeError, match="at most 64,000,000 pixels"):
        check_image(Image.new("1", (MOST_PIXELS // 1000 + 1, 1000)))


def test_png_files_of_nothing_but_chunks() -> None:
    png = bytes_of(NOISE, "PNG")
    with pytest.raises(ValueError, match="more than 500,000 chunks"):
        check_image(png[:33] + chunk(b"abCd", b"") * 500_001 + png[33:])


@pytest.mark.parametrize("ending", [name for name in KINDS if name not in ("jpe", "jfif")])
def test_damage_of_any_kind_is_told_in_a_sentence(tmp_path: Path, ending: str) -> None:
    """Bytes changed, left out, doubled and cut off: read, or a ValueError in one line that names the file."""
    whole, draw = bytes_of(NOISE, KINDS[ending]), random.Random(ending)
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            place, count = draw.randrange(len(data)), draw.randint(1, 12)
            what = draw.choice([draw.randbytes(count), b"", b"\xff" * count, bytes(count)])
            data[place : place + count] = what
        (file := tmp_path / f"a.{ending}").write_bytes(data[: draw.choice([None, draw.randrange(len(data))])])
        told = ""
        try:
            shown = check_image(file)
        except ValueError as error:
            told = str(error)
        assert (told.startswith(f"{file}: ") and "\n" not in told) or shown.mode == "RGB"
