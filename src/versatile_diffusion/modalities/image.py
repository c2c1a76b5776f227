"""The image modality: RGB pictures; latents are a grid [C, H, W]."""

from __future__ import annotations

import os
import struct
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import nn

from versatile_diffusion.layers.attention import context_layers
from versatile_diffusion.layers.conv import conv_layer
from versatile_diffusion.layers.plan import Stage
from versatile_diffusion.modalities.base import Modality

MOST_PIXELS = 64_000_000
DAMAGE = (OSError, SyntaxError, ValueError, EOFError, struct.error)  # what Pillow raises for damaged files


def image_data_stream(
    plan: tuple[Stage, ...], *, time_width: int, norm_groups: int, channels: int = 4
) -> nn.ModuleList:
    """Residual blocks for latents of `channels` channels."""
    options = {"channels": channels, "time_width": time_width, "norm_groups": norm_groups}
    return nn.ModuleList(conv_layer(stage, **options) for stage in plan)


def image_context_stream(plan: tuple[Stage, ...], *, norm_groups: int, heads: int, width: int = 768) -> nn.ModuleList:
    """Context blocks for image tokens of `width` numbers."""
    return context_layers(plan, width=width, heads=heads, norm_groups=norm_groups)


def check_image(value: Any) -> Image.Image:
    """A picture as RGB.

    Args:
        value: a PIL image, a path, or an array (H, W), (H, W, 3) or (H, W, 4) of uint8 (or float in 0..1).

    Returns:
        The picture turned upright by its EXIF tag, transparent parts on white, the first frame of an animation.

    Raises:
        ValueError: if there is no such file, it is not a picture, it is cut short, or it is too large.
    """
    if isinstance(value, str | os.PathLike):
        with _opened(os.fspath(value)) as picture:
            return _to_rgb(picture, str(value))
    if isinstance(value, np.ndarray):
        value = _from_array(value)
    if not isinstance(value, Image.Image):
        raise ValueError(f"an image is a PIL image, a path or an array, not {type(value).__name__}")
    return _to_rgb(value, "the image")


def _opened(path: str) -> Image.Image:
    if not os.path.isfile(path):  # unlike pathlib's, this one takes any string
        raise ValueError(f"{path}: no such image file")
    try:
        return Image.open(path)
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path}: the picture is too large; at most {MOST_PIXELS:,} pixels are allowed") from error
    except UnidentifiedImageError as error:
        raise ValueError(f"{path}: not a picture in a known format (such as PNG, JPEG, WebP, GIF)") from error
    except DAMAGE as error:
        raise ValueError(f"{path}: the picture cannot be read ({error})") from error


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)) or 0 in array.shape:
        raise ValueError(f"an image array is (H, W), (H, W, 3) or (H, W, 4), not {array.shape}")
    if np.issubdtype(array.dtype, np.floating):
        array = (array.clip(0, 1) * 255).round().astype(np.uint8)
    if array.dtype != np.uint8:
        raise ValueError(f"an image array is uint8, or float in 0..1, not {array.dtype}")
    return Image.fromarray(array)


def _to_rgb(picture: Image.Image, name: str) -> Image.Image:
    if picture.width * picture.height > MOST_PIXELS:
        raise ValueError(
            f"{name}: {picture.width} x {picture.height} is too large; at most {MOST_PIXELS:,} pixels are allowed"
        )
    try:
        if getattr(picture, "n_frames", 1) > 1:
            picture.seek(0)
        picture = ImageOps.exif_transpose(picture)
    except DAMAGE as error:
        raise ValueError(f"{name}: the picture is damaged or cut short ({error})") from error
    if picture.mode.startswith(("I", "F")):  # 16 or 32 bits: Pillow would clip, not scale
        return Image.fromarray(_to_bytes(np.asarray(picture))).convert("RGB")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return picture.convert("RGB")


def _to_bytes(levels: np.ndarray) -> np.ndarray:
    """Grey levels of 16 bits, or float in 0..1 or 0..255, as bytes."""
    top = 65535.0 if levels.dtype.kind in "iu" else 1.0 if levels.max() <= 1 else 255.0
    return (levels.clip(0, top) * (255.0 / top)).round().astype(np.uint8)


IMAGE = Modality(
    name="image",
    data_stream=image_data_stream,
    context_stream=image_context_stream,
    check=check_image,
    blanks={
        "black": Image.new("RGB", (64, 64), (0, 0, 0)),
        "grey": Image.new("RGB", (64, 64), (128, 128, 128)),
    },
)
