"""Conversion of images of any mode to upright sRGB."""

from __future__ import annotations

from functools import lru_cache
from io import BytesIO

import numpy as np
from PIL import Image, ImageCms, ImageOps

from versatile_diffusion.modalities.image.bytes import MOST_PROFILE
from versatile_diffusion.modalities.image.files import NotPixelsError, check_size, decode, one_sentence, remark

SPACES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab ": "LAB"}
"""Colour spaces of profiles, and the matching image mode."""
ROUNDED = 1 / 510  # tolerance for rounding, as a fraction of the range
SAME = 1  # maximum difference in levels (of 255) of profiles that count as sRGB
PROFILES = 8  # cached transforms


def to_rgb(picture: Image.Image, name: str = "the image", background: str = "white") -> Image.Image:
    """Convert the current frame to RGB: a new image without metadata; the input is unchanged.

    EXIF orientation is applied, the colour profile converted to sRGB, 16-bit grey scaled, and transparency put on the
    background.

    Raises:
        ValueError: too large, or damaged.
    """
    with one_sentence(name):
        check_size(picture)
        decode(picture)
        upright = _upright(picture, name)
        colours, alpha = _parts(upright)
        rgb = _in_srgb(colours, upright.info.get("icc_profile"), name)
        if alpha is not None:
            rgb.putalpha(alpha)
            rgb = Image.alpha_composite(Image.new("RGBA", rgb.size, background), rgb).convert("RGB")
        rgb.info = {}
        return rgb


def _upright(picture: Image.Image, name: str) -> Image.Image:
    try:
        return ImageOps.exif_transpose(picture)
    except Exception as error:  # damaged EXIF data can raise anything here
        remark(name, f"its EXIF data cannot be read ({type(error).__name__}); assuming it is upright")
        return picture.copy()


def _parts(picture: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Return the colours in a mode that profiles support, and the alpha channel; None if opaque."""
    clear = picture.info.get("transparency")
    if picture.mode.startswith(("I", "F")):  # 16 or 32 bits: Pillow would clip instead of scale
        levels = np.asarray(picture)
        alpha = None if clear is None else Image.fromarray(np.uint8(255) * (levels != clear))
        return Image.fromarray(_to_bytes(levels)), alpha
    if picture.has_transparency_data:
        whole = (picture.convert("LA") if picture.mode == "La" else picture).convert("RGBA")
        colours = whole.getchannel("R") if picture.mode in ("1", "L", "LA", "La") else whole.convert("RGB")
        return colours, whole.getchannel("A")
    if picture.mode in SPACES.values():
        return picture, None
    return picture.convert("L" if picture.mode == "1" else "RGB"), None


def _in_srgb(colours: Image.Image, profile: bytes | None, name: str) -> Image.Image:
    transform = None
    if profile:
        try:
            transform = _transform(profile, colours.mode)
        except Exception as error:  # Pillow's own errors, and those of damaged profiles
            remark(name, f"the colour profile cannot be used ({error}); assuming sRGB")
    if transform is None and colours.mode == "LAB":  # Pillow cannot convert LAB itself
        lab = ImageCms.createProfile("LAB")
        transform = ImageCms.buildTransform(lab, ImageCms.createProfile("sRGB"), "LAB", "RGB")
    return colours.convert("RGB") if transform is None else transform.apply(colours)


@lru_cache(PROFILES)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform from a profile and mode to sRGB; None if it is sRGB already.

    Raises:
        ValueError: the profile does not match the mode, or is too large.
        PyCMSError, OSError: it is damaged.
    """
    if len(profile) > MOST_PROFILE:
        raise ValueError(f"it has {len(profile):,} bytes; at most {MOST_PROFILE:,} are allowed")
    source = ImageCms.ImageCmsProfile(BytesIO(profile))
    space = source.profile.xcolor_space
    if SPACES.get(space) != mode:
        raise ValueError(f"it is for {space.strip()}, but the image is {mode}")
    transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    return None if mode in ("RGB", "L") and _changes_nothing(transform, mode) else transform


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Return whether sample colours of the whole cube stay unchanged."""
    levels = np.arange(0, 256, 15, dtype=np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(len(levels), -1, 3)
    before = Image.fromarray(cube).convert(mode)
    after = np.asarray(transform.apply(before), np.int16)
    return int(np.abs(after - np.asarray(before.convert("RGB"))).max()) <= SAME


def _to_bytes(levels: np.ndarray) -> np.ndarray:
    """Convert grey levels of 16 bits, or float in 0..1 or 0..255, to bytes.

    Raises:
        NotPixelsError: not finite, out of range, or floats between the two ranges.
    """
    least, most = float(levels.min()), float(levels.max())
    whole = levels.dtype.kind in "iu"
    top = 65535.0 if whole else 1.0 if most <= 1 + ROUNDED else 255.0
    between = not whole and 1 + ROUNDED < most < 2
    if not -ROUNDED * top <= least <= most <= (1 + ROUNDED) * top or between:  # also refuses NaN
        ranges = "0..65535" if whole else "0..1 or 0..255"
        raise NotPixelsError(f"grey levels must be in {ranges}; these range from {least:g} to {most:g}")
    return (levels.clip(0, top) * (255.0 / top)).round().astype(np.uint8)
