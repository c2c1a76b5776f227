"""The image modality: RGB pictures; latents are a grid [C, H, W]."""

from __future__ import annotations

import os
import struct
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Float
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
        value: a PIL image, a path, an open binary file, or an array (H, W), (H, W, 3) or (H, W, 4) of uint8 (or float
            in 0..1).

    Returns:
        The picture turned upright by its EXIF tag, transparent parts on white, the first frame of an animation.

    Raises:
        ValueError: if there is no such file, it is not a picture, it is cut short, or it is too large.
    """
    if isinstance(value, str | os.PathLike):
        with _opened(os.fspath(value)) as picture:
            return _to_rgb(picture, str(value))
    if hasattr(value, "read"):
        name = str(getattr(value, "name", "the image"))
        with _identified(value, name) as picture:
            return _to_rgb(picture, name)
    if isinstance(value, np.ndarray):
        value = _from_array(value)
    if not isinstance(value, Image.Image):
        raise ValueError(f"an image is a PIL image, a path or an array, not {type(value).__name__}")
    return _to_rgb(value, "the image")


def _opened(path: str) -> Image.Image:
    if not os.path.isfile(path):  # unlike pathlib's, this one takes any string
        raise ValueError(f"{path}: no such image file")
    return _identified(path, path)


def _identified(file: str | BinaryIO, name: str) -> Image.Image:
    try:
        return Image.open(file)
    except Image.DecompressionBombError as error:
        raise ValueError(f"{name}: the picture is too large; at most {MOST_PIXELS:,} pixels are allowed") from error
    except UnidentifiedImageError as error:
        raise ValueError(f"{name}: not a picture in a known format (such as PNG, JPEG, WebP, GIF)") from error
    except DAMAGE as error:
        raise ValueError(f"{name}: the picture cannot be read ({error})") from error


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


def check_mask(value: Any, picture: Image.Image | None = None) -> Float[np.ndarray, "h w"]:
    """A mask as numbers from 0 to 1, white (1) keeps, grey keeps in part.

    Args:
        value: a path, a PIL image (its brightness), or an array (H, W): bool, float in 0..1, or uint8 (0..255, or 0
            and 1).
        picture: what it is a mask of. A mask of any size with the picture's proportions, or a square one, which covers
            the square that the encoder sees.

    Raises:
        ValueError: it is not one of these, it is all zero, or its proportions are others.
    """
    if isinstance(value, str | os.PathLike):
        with _opened(os.fspath(value)) as opened:
            value = _to_rgb(opened, str(value))
    array = np.asarray(value.convert("L") if isinstance(value, Image.Image) else value)
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f'a mask is an "L" picture, a path or an array (H, W); got an array of shape {array.shape}')
    if array.dtype == np.uint8 and array.max() > 1:
        array = array / np.float32(255)
    array = array.astype(np.float32)
    if not (array.min() >= 0 and array.max() <= 1):
        raise ValueError(f"a mask has numbers from 0 to 1; these are from {array.min():g} to {array.max():g}")
    if array.max() == 0:
        raise ValueError("a mask is all zero (black), so nothing would be left of what it covers; white keeps")
    if picture is not None and array.shape[0] != array.shape[1]:
        check_proportions(array.shape, (picture.height, picture.width))
    return array


def check_proportions(shape: tuple[int, ...], of: tuple[int, ...]) -> None:
    """ValueError unless a mask of this shape (rows, columns) can be scaled onto what it covers."""
    (height, width), (rows, columns) = shape, of
    if abs(height - width * rows / columns) > 1 and abs(width - height * columns / rows) > 1:
        raise ValueError(
            f"a mask is {width} x {height}, and what it covers {columns} x {rows}; give one of the same proportions"
        )


def paste(made: Image.Image, kept: Image.Image, mask: Float[np.ndarray, "h w"]) -> Image.Image:
    """`made` where the mask is 1, exactly `kept` where it is 0, and a blend between; the mask may have another size."""
    levels = Image.fromarray((mask * 255).round().astype(np.uint8)).resize(made.size, Image.Resampling.BILINEAR)
    return Image.composite(made, kept, levels)


IMAGE = Modality(
    name="image",
    data_stream=image_data_stream,
    context_stream=image_context_stream,
    check=check_image,
    blanks={
        "black": Image.new("RGB", (64, 64), (0, 0, 0)),
        "grey": Image.new("RGB", (64, 64), (127, 127, 127)),  # 0.5 cut to a whole level, as originally
    },
    check_mask=check_mask,
    paste=paste,
)
