"""Uploads of every kind, good and bad."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from versatile_diffusion.ui.page.uploads import (
    DATA_URL,
    LARGEST_SIDE,
    canvas,
    data_url,
    digest,
    read_mask,
    read_picture,
)

RED, BLUE = (220, 30, 30), (30, 30, 220)


def two_colours(mode: str = "RGB", size: tuple[int, int] = (40, 20)) -> Image.Image:
    """Red at the left, blue at the right."""
    picture = Image.new("RGB", size, RED)
    picture.paste(BLUE, (size[0] // 2, 0, *size))
    return picture.convert(mode)


def near(picture: Image.Image, place: tuple[int, int], colour: tuple[int, ...]) -> bool:
    return bool(np.abs(np.subtract(picture.getpixel(place), colour)).max() < 40)


def test_nothing() -> None:
    assert read_picture(None) is None


@pytest.mark.parametrize(
    ("mode", "suffix"), [("RGB", "png"), ("P", "gif"), ("CMYK", "jpg"), ("RGB", "webp"), ("P", "png")]
)
def test_common_kinds(tmp_path: Path, mode: str, suffix: str) -> None:
    two_colours(mode).save(file := tmp_path / f"a.{suffix}")
    picture = read_picture(str(file))
    assert picture is not None
    assert picture.mode == "RGB"
    assert near(picture, (5, 10), RED)
    assert near(picture, (35, 10), BLUE)


def test_sixteen_bits_are_scaled(tmp_path: Path) -> None:
    Image.fromarray(np.full((8, 8), 40000, np.uint16)).save(file := tmp_path / "a.png")
    picture = read_picture(str(file))
    assert picture is not None
    assert abs(picture.getpixel((3, 3))[0] - 40000 * 255 / 65535) < 2  # type: ignore[index]


def test_an_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (9, 9), colour) for colour in (RED, BLUE)]
    frames[0].save(file := tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    picture = read_picture(str(file))
    assert picture is not None
    assert near(picture, (4, 4), RED)


def test_a_rotated_photo_stands_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    two_colours().save(file := tmp_path / "a.jpg", exif=exif)
    picture = read_picture(str(file))
    assert picture is not None
    assert picture.size == (20, 40)
    assert near(picture, (10, 5), RED)


def test_transparent_parts_are_white(tmp_path: Path) -> None:
    Image.new("RGBA", (9, 9), (0, 0, 0, 0)).save(file := tmp_path / "a.png")
    picture = read_picture(str(file))
    assert picture is not None
    assert picture.getpixel((4, 4)) == (255, 255, 255)


def test_large_pictures_become_smaller(tmp_path: Path) -> None:
    two_colours(size=(5000, 2500)).save(file := tmp_path / "a.jpg")
    picture = read_picture(str(file))
    assert picture is not None
    assert picture.size == (LARGEST_SIDE, LARGEST_SIDE // 2)


def bomb(width: int, height: int) -> bytes:
    """A small PNG file that says it is huge."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"hello, this is no picture at all", "not an image that can be read"),
        (b"", "not an image that can be read"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image that can be read"),
        (bomb(9000, 9000), "too large; at most 64 million"),
        (bomb(60000, 60000), "too large; at most 64 million"),
        (bomb(40, 40), "damaged or cut short"),
    ],
)
def test_bad_files_are_refused_in_words(tmp_path: Path, content: bytes, message: str) -> None:
    (file := tmp_path / "secret-name.png").write_bytes(content)
    with pytest.raises(ValueError, match=message) as caught:
        read_picture(str(file))
    assert "secret-name" not in str(caught.value)


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp"])
def test_files_that_are_cut_short(tmp_path: Path, suffix: str) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 90, 3), np.uint8))
    noise.save(whole := tmp_path / f"a.{suffix}")
    (file := tmp_path / f"b.{suffix}").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(ValueError, match=r"damaged or cut short|not an image that can be read"):
        read_picture(str(file))


def test_what_was_painted_comes_back() -> None:
    mask = Image.new("L", (32, 16))
    mask.paste(255, (4, 4, 20, 12))
    shown = canvas(two_colours(), mask)
    back = read_mask(shown)
    assert back is not None
    assert np.array_equal(np.asarray(back), np.asarray(mask))
    assert read_mask(canvas(two_colours())) is None
    assert canvas(None) is None


def test_strokes_are_read_from_their_opacity() -> None:
    strokes = Image.new("RGBA", (8, 8), (255, 255, 255, 0))
    strokes.paste((255, 255, 255, 255), (0, 0, 4, 8))
    buffer = io.BytesIO()
    strokes.save(buffer, "PNG")
    mask = read_mask({"mask": DATA_URL + base64.b64encode(buffer.getvalue()).decode()})
    assert mask is not None
    assert (mask.getpixel((1, 1)), mask.getpixel((6, 1))) == (255, 0)


@pytest.mark.parametrize(
    "url", ["http://example.org/mask.png", DATA_URL + "%%%", DATA_URL + "aGVsbG8=", DATA_URL + "A" * 3_000_000, 7]
)
def test_bad_masks(url: object) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        read_mask({"picture": "x", "mask": url})


def test_small_copies_are_small() -> None:
    assert len(data_url(two_colours(size=(1000, 1000)))) < 20_000


def test_a_picture_is_called_as_settings_do() -> None:
    from versatile_diffusion.records.record import record_of

    assert digest(two_colours()) == record_of(None, two_colours())["sha256"]
