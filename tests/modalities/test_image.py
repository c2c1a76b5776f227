"""What a user may hand over as a picture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.modalities.image import MOST_PIXELS, mask_levels

check = MODALITIES["image"].check
RED, BLUE, WHITE = (255, 0, 0), (0, 0, 255), (255, 255, 255)


@pytest.fixture
def halves() -> Image.Image:
    """Left half red, right half blue."""
    picture = Image.new("RGB", (8, 4), RED)
    picture.paste(BLUE, (4, 0, 8, 4))
    return picture


def test_a_plain_picture_is_kept(halves, tmp_path: Path):
    halves.save(tmp_path / "a.png")
    for value in (halves, tmp_path / "a.png", str(tmp_path / "a.png"), np.asarray(halves)):
        assert np.array_equal(check(value), halves)
        assert check(value).mode == "RGB"


def test_exif_rotation_is_applied(halves, tmp_path: Path):
    exif = Image.Exif()
    exif[0x0112] = 6  # must be turned a quarter clockwise to stand upright
    halves.save(tmp_path / "a.png", exif=exif)
    upright = check(tmp_path / "a.png")
    assert upright.size == (4, 8)
    assert upright.getpixel((0, 0)) == RED
    assert upright.getpixel((0, 7)) == BLUE


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_parts_lie_on_white(mode):
    picture = Image.new("RGBA", (2, 1), (0, 0, 0, 255))
    picture.putpixel((1, 0), (0, 0, 0, 0))
    converted = picture.convert(mode)
    assert check(converted).getpixel((1, 0)) == WHITE
    assert check(converted).getpixel((0, 0)) == (0, 0, 0)


def test_palette_transparency(tmp_path: Path):
    picture = Image.new("P", (2, 1), 0)
    picture.putpalette([0, 0, 255, 255, 0, 0])
    picture.putpixel((1, 0), 1)
    picture.save(tmp_path / "a.gif", transparency=0)
    assert [check(tmp_path / "a.gif").getpixel((x, 0)) for x in (0, 1)] == [WHITE, RED]


@pytest.mark.parametrize("kind", ["gif", "tiff", "png", "avif"])
def test_the_frame_that_is_given_counts_and_of_a_file_the_first(tmp_path: Path, kind):
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, BLUE, WHITE)]
    frames[0].save(tmp_path / f"a.{kind}", save_all=True, append_images=frames[1:])
    assert np.abs(np.subtract(check(tmp_path / f"a.{kind}").getpixel((1, 1)), RED)).max() < 5
    with Image.open(tmp_path / f"a.{kind}") as opened:
        for place in (1, 2, 0):
            opened.seek(place)
            assert np.abs(np.subtract(check(opened).getpixel((1, 1)), frames[place].getpixel((1, 1)))).max() < 5
            assert opened.tell() == place


def test_sixteen_bits_are_scaled_not_clipped(tmp_path: Path):
    levels = np.array([[0, 0x8080, 0xFFFF]], dtype=np.uint16)
    Image.fromarray(levels).save(tmp_path / "a.png")
    assert [check(tmp_path / "a.png").getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]


@pytest.mark.parametrize("mode", ["CMYK", "L", "1", "YCbCr", "HSV"])
def test_other_modes(halves, mode):
    assert check(halves.convert(mode)).mode == "RGB"


def test_float_arrays_are_zero_to_one():
    assert check(np.full((2, 2, 3), 0.5)).getpixel((0, 0)) == (128, 128, 128)


def test_missing_file():
    with pytest.raises(ValueError, match=r"nowhere\.png: no such image file"):
        check("nowhere.png")
    with pytest.raises(ValueError, match="no such image file"):
        check("x" * 5000)


def test_not_a_picture(tmp_path: Path):
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(ValueError, match=r"a\.png: not an image"):
        check(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["png", "jpg", "gif", "webp"])
def test_cut_short(tmp_path: Path, kind):
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / f"a.{kind}")
    whole = (tmp_path / f"a.{kind}").read_bytes()
    (tmp_path / f"b.{kind}").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=rf"b\.{kind}: "):
        check(tmp_path / f"b.{kind}")


def test_too_large(tmp_path: Path):
    side = int(MOST_PIXELS**0.5) + 1
    Image.new("1", (side, side)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"too large; at most 64,000,000 pixels"):
        check(tmp_path / "a.png")
    Image.new("1", (4 * side, side)).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"too large; at most 64,000,000 pixels"):
        check(tmp_path / "b.png")


@pytest.mark.parametrize("value", [None, 3, ["a.png"], {"path": "a.png"}])
def test_other_types(value):
    with pytest.raises(ValueError, match="a PIL image, a path or an array"):
        check(value)


@pytest.mark.parametrize("shape", [(4,), (4, 4, 2), (0, 4, 3), (1, 4, 4, 3)])
def test_arrays_of_other_shapes(shape):
    with pytest.raises(ValueError, match="image array must be"):
        check(np.zeros(shape, dtype=np.uint8))


def test_blanks_are_pictures():
    blanks = MODALITIES["image"].blanks
    assert set(blanks) == {"black", "grey"}
    assert all(
        check(blank).getpixel((0, 0)) == (level,) * 3 for blank, level in zip(blanks.values(), (0, 127), strict=True)
    )


mask, paste = MODALITIES["image"].check_mask, MODALITIES["image"].paste


def test_masks_of_every_kind_say_the_same(tmp_path: Path):
    levels = np.array([[0, 255], [255, 0], [0, 0]], dtype=np.uint8)
    picture = Image.fromarray(levels)
    picture.save(tmp_path / "mask.png")
    for value in (
        levels,
        levels > 0,
        levels / 255,
        levels // 255,
        picture,
        tmp_path / "mask.png",
        picture.convert("1"),
    ):
        found = mask(value)
        assert found.dtype == np.float32
        assert np.array_equal(found, levels > 0)
    assert mask(np.uint8([[51]]))[0, 0] == np.float32(0.2)


@pytest.mark.parametrize("shape", [(4, 8), (2, 4), (40, 80), (5, 5)])
def test_a_mask_has_the_proportions_of_its_picture_or_is_square(halves, shape: tuple[int, int]):
    assert mask(np.ones(shape), halves).shape == shape


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (np.ones((8, 4)), "the mask is 4 x 8, but it must have the aspect ratio of 8 x 4"),
        (np.ones((4, 8, 3)), "shape"),
        (np.ones((0, 8)), "shape"),
        (np.zeros((4, 8)), "all black"),
        (np.full((4, 8), -1.0), "from 0 to 1"),
        (np.full((4, 8), np.nan), "from 0 to 1"),
        ("no/mask.png", "no such image file"),
    ],
)
def test_masks_that_are_none(halves, value, message: str):
    with pytest.raises(ValueError, match=message):
        mask(value, halves)


def test_pasting_keeps_what_is_black_exactly(halves):
    made, part = Image.new("RGB", (8, 4), WHITE), np.zeros((4, 8), np.float32)
    part[:, 2], part[:, 3] = 1, 0.5
    pasted = np.asarray(paste(made, halves, part))
    assert np.array_equal(np.delete(pasted, [2, 3], axis=1), np.delete(np.asarray(halves), [2, 3], axis=1))
    assert (pasted[:, 2] == WHITE).all()
    assert tuple(pasted[0, 3]) == (255, 128, 128)


def test_masks_with_one_channel_and_of_16_bits() -> None:
    plain = np.array([[0, 255], [51, 255]], np.uint8)
    for mask in (plain[None], plain[..., None], plain.astype(np.uint16) * 257):
        np.testing.assert_allclose(mask_levels(mask), plain / 255, atol=1e-6)
