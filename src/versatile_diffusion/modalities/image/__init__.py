"""Image modality: RGB images; latents are a grid [C, H, W]. Its record is in `modalities/records.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float
from PIL import Image, ImageOps, PngImagePlugin
from torch import Tensor, nn

from versatile_diffusion.layers.attention import context_layers
from versatile_diffusion.layers.conv import conv_layer
from versatile_diffusion.layers.plan import Stage
from versatile_diffusion.modalities.image.colours import to_rgb
from versatile_diffusion.modalities.image.files import MOST_PIXELS as MOST_PIXELS
from versatile_diffusion.modalities.image.files import is_file, name_of, open_image
from versatile_diffusion.modalities.records import IMAGE as IMAGE
from versatile_diffusion.numeric import widen


def image_data_stream(
    plan: tuple[Stage, ...], *, time_width: int, norm_groups: int, channels: int = 4
) -> nn.ModuleList:
    """Build residual blocks for latents with `channels` channels."""
    options = {"channels": channels, "time_width": time_width, "norm_groups": norm_groups}
    return nn.ModuleList(conv_layer(stage, **options) for stage in plan)


def image_context_stream(plan: tuple[Stage, ...], *, norm_groups: int, heads: int, width: int = 768) -> nn.ModuleList:
    """Build context blocks for image tokens of width `width`."""
    return context_layers(plan, width=width, heads=heads, norm_groups=norm_groups)


def check_image(value: Any) -> Image.Image:
    """Return an image as RGB.

    Args:
        value: PIL image, path, file content or open binary file; `{"bytes": ..., "path": ...}` as in data sets of
            Hugging Face; an array (H, W), (H, W, 3) or (H, W, 4), or a tensor (3, H, W) or (4, H, W), of uint8, uint16,
            or float in 0..1.

    Returns:
        The image converted by `to_rgb`: upright, sRGB, transparency on white. Animations give the PIL image's current
        frame, or the first frame of a file.

    Raises:
        ValueError: a missing, damaged, unreadable or too large image.
    """
    if isinstance(value, Mapping) and {"bytes", "path"} <= value.keys():  # a row of a data set that is not decoded
        value = value["path"] if value["bytes"] is None else value["bytes"]
    if is_file(value):
        return to_rgb(open_image(value), name_of(value))
    if isinstance(value, Tensor) and value.ndim == 3:
        value = widen(value.detach()).movedim(0, -1).cpu().numpy()
    if isinstance(value, np.ndarray):
        value = _from_array(value)
    if not isinstance(value, Image.Image):
        raise ValueError(
            f"an image must be a PIL image, a path or an array (or a tensor (3, H, W)), not {type(value).__name__}"
        )
    return to_rgb(value)


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (3, 4)) or 0 in array.shape:
        raise ValueError(f"an image array must be (H, W), (H, W, 3) or (H, W, 4), not {array.shape}")
    if array.dtype == np.uint8:
        return Image.fromarray(array)
    tops = {"f": 1, "u": 65535 if array.dtype == np.uint16 else None}
    if (top := tops.get(array.dtype.kind)) is None:
        raise ValueError(f"an image array must be uint8, uint16, or float in 0..1, not {array.dtype}")
    least, most = float(array.min()), float(array.max())
    if not (-top / 510 <= least and most <= top + top / 510):  # allow rounding by half a level; refuse NaN
        signed = "; give (x + 1) / 2 for one in -1..1" if top == 1 and -1.01 < least < 0 and most < 1.01 else ""
        raise ValueError(
            f"an image array of {array.dtype} must be in 0..{top}; this one ranges from {least:g} to {most:g}{signed}"
        )
    return Image.fromarray((array.clip(0, top) * (255 / top)).round().astype(np.uint8))


def check_mask(value: Any, image: Image.Image | None = None) -> Float[np.ndarray, "h w"]:
    """Return a mask in 0..1: white (1) keeps, grey keeps in part; see `mask_levels`.

    Args:
        value: any mask that `mask_levels` accepts.
        image: the masked image. The mask must have its aspect ratio (any size), or be square, covering the square
            that the encoder sees.

    Raises:
        ValueError: an invalid or all-zero mask, or a wrong aspect ratio.
    """
    array = mask_levels(value)
    if array.max() == 0:
        raise ValueError("the mask is all black and would remove everything; white regions are kept")
    if image is not None and array.shape[0] != array.shape[1]:
        check_proportions(array.shape, (image.height, image.width))
    return array


def mask_levels(value: Any, most: float = 1) -> Float[np.ndarray, "h w"]:
    """Convert a mask of any form to values in 0..1.

    Args:
        value: an image file or PIL image as in `check_image` (its brightness; transparency is black); or an array (H,
            W), (1, H, W) or (H, W, 1): bool, float in 0..1, uint8 (0..255, or 0 and 1) or uint16.
        most: maximum value; above 1, a mask amplifies.

    Raises:
        ValueError: another type or shape, or values out of range.
    """
    name = name_of(value) if is_file(value) else "the mask"
    if is_file(value):
        value = open_image(value)
    if isinstance(value, Image.Image):
        value = to_rgb(value, name, background="black").convert("L")
    array = np.asarray(value)
    if array.ndim == 3 and 1 in (array.shape[0], array.shape[2]):  # with a channel axis
        array = array[0] if array.shape[0] == 1 else array[..., 0]
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"a mask must be an image or an array of shape (H, W); got an array of {array.shape}")
    if array.dtype == np.uint8 and array.max() > 1:
        array = array / np.float32(255)
    elif array.dtype == np.uint16:
        array = array / np.float32(65535)
    array = array.astype(np.float32)
    if not (array.min() >= 0 and array.max() <= most):
        raise ValueError(f"mask values must be from 0 to {most:g}; these range from {array.min():g} to {array.max():g}")
    return array


def check_proportions(shape: tuple[int, ...], of: tuple[int, ...]) -> None:
    """Raise ValueError unless a mask of this shape (rows, columns) has the required aspect ratio."""
    (height, width), (rows, columns) = shape, of
    if abs(height - width * rows / columns) > 1 and abs(width - height * columns / rows) > 1:
        raise ValueError(f"the mask is {width} x {height}, but it must have the aspect ratio of {columns} x {rows}")


def paste(made: Image.Image, kept: Image.Image, mask: Float[np.ndarray, "h w"]) -> Image.Image:
    """Blend: `made` where the mask is 1, exactly `kept` where it is 0; the mask is resized if needed."""
    levels = Image.fromarray((mask * 255).round().astype(np.uint8)).resize(made.size, Image.Resampling.BILINEAR)
    return Image.composite(made, kept, levels)


def square(image: Image.Image, side: int) -> Image.Image:
    """Crop the centre square of an image and resize it to `side` pixels."""
    return ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC)


def black() -> Image.Image:
    """Return a black image."""
    return Image.new("RGB", (64, 64), (0, 0, 0))


def grey() -> Image.Image:
    """Return a mid-grey image."""
    return Image.new("RGB", (64, 64), (127, 127, 127))  # 0.5 truncated, as in the original


def read_stream(stream: BinaryIO, name: str) -> list[Any]:
    """Read the single image of a stream."""
    return [to_rgb(open_image(stream, name), name)]


def write_png(image: Image.Image, stream: Any, chunks: Mapping[str, str]) -> None:
    """Write a PNG file. Args: chunks: text chunks (iTXt, since prompts may use any script)."""
    if not chunks:
        return image.save(stream, format="PNG")
    info = PngImagePlugin.PngInfo()
    for key, text in chunks.items():  # file names may not be UTF-8; JSON can read the escapes back
        info.add_itxt(key, text.encode("utf-8", "backslashreplace").decode())
    image.save(stream, format="PNG", pnginfo=info)


def as_it_is(image: Image.Image) -> Image.Image:
    """Return the image itself."""
    return image


def as_array(images: Sequence[Image.Image]) -> Float[np.ndarray, "b h w c"]:
    """Convert images to an array in [0, 1]."""
    return np.stack([np.asarray(image, dtype=np.float32) / 255 for image in images])


def as_tensor(images: Sequence[Image.Image]) -> Float[Tensor, "b c h w"]:
    """Convert images to a tensor in [0, 1]."""
    return rearrange(torch.from_numpy(as_array(images)), "b h w c -> b c h w")
