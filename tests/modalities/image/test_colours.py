"""Images of every mode and colour profile become the same RGB, and nothing of the caller's changes."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from versatile_diffusion.modalities.image import check_image, check_mask, mask_levels
from versatile_diffusion.modalities.image.colours import to_rgb
from versatile_diffusion.modalities.image.lite_vae import pixels_of

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
NOISE = Image.fromarray(np.random.default_rng(5).integers(0, 255, (16, 20, 3), np.uint8))


def tags(profile: bytes) -> dict[bytes, int]:
    """Where the entries of a profile's table are."""
    count = struct.unpack(">I", profile[128:132])[0]
    return {profile[132 + 12 * k : 136 + 12 * k]: 132 + 12 * k for k in range(count)}


def swapped() -> bytes:
    """A profile of blue and red the other way round."""
    profile = bytearray(SRGB)
    red, blue = tags(SRGB)[b"rXYZ"], tags(SRGB)[b"bXYZ"]
    profile[red + 4 : red + 12], profile[blue + 4 : blue + 12] = SRGB[blue + 4 : blue + 12], SRGB[red + 4 : red + 12]
    return bytes(profile)


def grey(gamma: float) -> bytes:
    """A profile of grey levels with a plain gamma."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    white = b"XYZ " + bytes(4) + struct.pack(">iii", 63190, 65536, 54061)
    text = b"desc" + bytes(4) + struct.pack(">I", 2) + b"g\0" + bytes(78)
    places, body = [], b""
    for name, content in ((b"desc", text), (b"wtpt", white), (b"kTRC", curve)):
        content += bytes(-len(content) % 4)
        places.append(name + struct.pack(">II", 132 + 36 + len(body), len(content)))
        body += content
    head = bytearray(128)
    head[8:12], head[12:24] = b"\x02\x10\0\0", b"mntrGRAYXYZ "
    head[36:40], head[68:80] = b"acsp", struct.pack(">iii", 63190, 65536, 54061)
    head[0:4] = struct.pack(">I", 132 + 36 + len(body))
    return bytes(head) + struct.pack(">I", 3) + b"".join(places) + body


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG", "AVIF"])
def test_a_profile_counts_in_every_format_and_form(kind: str) -> None:
    lossless = {"lossless": True} if kind == "WEBP" else {}
    data = saved(Image.new("RGB", (16, 16), (255, 0, 0)), kind, icc_profile=swapped(), **lossless)
    for value in (data, Image.open(io.BytesIO(data)), io.BytesIO(data)):
        red, _, blue = check_image(value).getpixel((3, 3))  # type: ignore[misc]
        assert blue > 230
        assert red < 25


@pytest.mark.parametrize("mode", ["RGBA", "P"])
def test_a_profile_counts_under_transparency_and_in_palettes(mode: str) -> None:
    picture = Image.new("RGBA", (8, 8), (255, 0, 0, 255))
    picture.paste((0, 0, 0, 0), (4, 0, 8, 8))
    data = saved(picture.convert(mode), "PNG", icc_profile=swapped())
    assert check_image(data).getpixel((1, 1)) == (0, 0, 255)
    if mode == "RGBA":
        assert check_image(data).getpixel((6, 6)) == (255, 255, 255)


@pytest.mark.parametrize("mode", ["L", "LA", "I;16"])
def test_grey_profiles(mode: str) -> None:
    level = 128 * 257 if mode == "I;16" else 128
    picture = Image.new(mode, (8, 8), (level, 255) if mode == "LA" else level)
    data = saved(picture, "PNG", icc_profile=grey(1.0))
    assert all(abs(shown - 188) <= 1 for shown in check_image(data).getpixel((1, 1)))  # half of the light
    assert check_image(saved(picture, "PNG")).getpixel((1, 1)) == (128, 128, 128)
    assert abs(check_mask(data)[0, 0] * 255 - 188) <= 1


def test_lab_images_have_their_colours() -> None:
    lab = ImageCms.profileToProfile(
        NOISE, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    for value in (lab, saved(lab, "TIFF")):
        assert np.abs(np.asarray(check_image(value), np.int16) - np.asarray(NOISE)).mean() < 4


def test_cmyk_without_a_profile_is_as_pillow_has_it() -> None:
    cmyk = NOISE.convert("CMYK")
    assert np.array_equal(check_image(cmyk), cmyk.convert("RGB"))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_srgb_images_keep_every_bit(mode: str) -> None:
    profile = {} if mode == "L" else {"icc_profile": SRGB}
    data = saved(NOISE.convert(mode), "PNG", **profile)
    assert np.array_equal(check_image(data), NOISE.convert(mode).convert("RGB"))


@pytest.mark.parametrize("profile", [b"none at all", SRGB[:200], SRGB[:128] + bytes(400), swapped()[:-40]])
def test_a_broken_profile_is_a_remark(profile: bytes) -> None:
    data = saved(NOISE, "PNG", icc_profile=profile)
    with pytest.warns(UserWarning, match="profile"):
        assert np.array_equal(check_image(data), NOISE)


def test_a_profile_for_other_images_is_a_remark() -> None:
    with pytest.warns(UserWarning, match="it is for GRAY, but the image is RGB"):
        assert np.array_equal(check_image(saved(NOISE, "PNG", icc_profile=grey(1.0))), NOISE)


def test_a_large_profile_counts_and_an_endless_one_is_a_remark() -> None:
    def with_profile(profile: bytes) -> bytes:
        content = b"icc\0\0" + zlib.compress(profile, 1)
        packed = struct.pack(">I", len(content)) + b"iCCP" + content
        plain = saved(Image.new("RGB", (8, 8), "red"), "PNG")
        return plain[:33] + packed + struct.pack(">I", zlib.crc32(packed[4:])) + plain[33:]

    long = bytearray(swapped() + bytes(3_000_000))
    long[0:4] = struct.pack(">I", len(long))
    assert check_image(with_profile(bytes(long))).getpixel((1, 1)) == (0, 0, 255)
    with pytest.warns(UserWarning, match="larger than 16,000,000 bytes"):
        assert check_image(with_profile(swapped() + bytes(40_000_000))).getpixel((1, 1)) == (255, 0, 0)


def test_damaged_exif_data_is_a_remark() -> None:
    damaged = b"Exif\0\0MM\0*\0\0\xff\xff"
    for value in (saved(NOISE, "WEBP", lossless=True, exif=damaged), saved(NOISE, "PNG", exif=damaged)):
        assert np.array_equal(check_image(value), NOISE)


def test_checking_twice_is_checking_once() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    once = check_image(saved(NOISE, "PNG", icc_profile=swapped(), exif=exif))
    assert np.array_equal(check_image(once), once)
    assert once.info == {}


def test_the_image_that_is_given_stays_as_it_is(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    saved_as = saved(NOISE.convert("P"), "PNG", icc_profile=swapped(), exif=exif, transparency=3)
    opened = Image.open(io.BytesIO(saved_as))
    before = (opened.mode, opened.size, dict(opened.info), opened.copy().tobytes())
    check_image(opened)
    check_mask(opened)
    assert (opened.mode, opened.size, dict(opened.info), opened.tobytes()) == before


def test_sixteen_bit_levels_that_stand_for_nothing_are_white() -> None:
    levels = np.array([[1000, 65535, 30000]], np.uint16)
    picture = Image.fromarray(levels)
    picture.info["transparency"] = 1000
    assert [check_image(picture).getpixel((x, 0))[0] for x in range(3)] == [255, 255, 117]  # type: ignore[index]
    assert check_mask(picture)[0, 0] == 0


MASKS = {
    "white on black": Image.new("L", (8, 4), 255),
    "strokes on nothing": Image.new("RGBA", (8, 4), (255, 255, 255, 255)),
    "grey with alpha": Image.new("LA", (8, 4), (255, 255)),
    "sixteen bits": Image.fromarray(np.full((4, 8), 65535, np.uint16)),
    "one bit": Image.new("1", (8, 4), 1),
    "a palette": Image.new("RGB", (8, 4), "white").convert("P"),
}


@pytest.mark.parametrize("kind", MASKS)
def test_a_mask_means_the_same_as_file_bytes_and_pil(tmp_path: Path, kind: str) -> None:
    picture = MASKS[kind].copy()
    picture.paste(Image.new(picture.mode, (4, 4), 0), (0, 0))
    picture.save(tmp_path / "mask.png")
    expected = np.repeat([[0, 0, 0, 0, 1, 1, 1, 1]], 4, axis=0)
    data = (tmp_path / "mask.png").read_bytes()
    for value in (picture, tmp_path / "mask.png", data, io.BytesIO(data), Image.open(io.BytesIO(data))):
        assert np.array_equal(check_mask(value), expected)
    assert np.array_equal(mask_levels(np.asarray(picture.convert("L"))), expected)


def test_half_transparent_strokes_keep_in_part() -> None:
    assert abs(check_mask(Image.new("RGBA", (4, 4), (255, 255, 255, 51)))[0, 0] - 0.2) < 0.01


def test_codecs_and_encoders_go_through_the_door() -> None:
    clear = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    assert pixels_of([clear], 16).min() == 1  # white
    turned = Image.open(io.BytesIO(saved(NOISE, "PNG", icc_profile=swapped())))
    assert np.array_equal(pixels_of([turned], 20), pixels_of([check_image(turned)], 20))


@pytest.mark.parametrize("levels", [np.nan, np.inf, -1.0, 1.5, 1000.0, 65535.0])
def test_float_levels_that_are_no_levels_are_refused(levels: float) -> None:
    picture = np.full((4, 4), 0.5, np.float32)
    picture[0, 0] = levels
    with pytest.raises(ValueError, match="grey levels must be in"):
        to_rgb(Image.fromarray(picture))


def test_whole_levels_out_of_range_and_images_without_pixels_are_refused() -> None:
    with pytest.raises(ValueError, match="65535"):
        to_rgb(Image.fromarray(np.array([[70_000, 1]], np.int32)))
    with pytest.raises(ValueError, match="no pixels"):
        to_rgb(Image.new("RGB", (0, 5)))
