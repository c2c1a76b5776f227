"""Colour matching of a variation to its input, as in the 2022 and 2023 demos."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from PIL import Image
from torch import Tensor

from versatile_diffusion.choices import chosen
from versatile_diffusion.numeric import number

Pixels = UInt8[np.ndarray, "_ _ 3"]
Channel = Float[np.ndarray, " n"]
Levels = Float[np.ndarray, "n 3"]

BINS = 600
_MARGIN = 1e-6  # keeps the extreme levels inside the outermost bins


def match_moments(
    image: Float[Tensor, "*b 3 h w"], reference: Float[Tensor, "*#b 3 rows columns"]
) -> Float[Tensor, "*b 3 h w"]:
    """`simple` of 2023: match mean and (unbiased) standard deviation of each channel.

    Args:
        image: RGB, clamped to [0, 1] first.
        reference: RGB in [0, 1], any size.

    Returns:
        RGB in [0, 1]. A constant channel becomes the reference's mean (NaN in the original).
    """
    image = image.clamp(0, 1)
    mean, spread = _moments(image)
    wanted_mean, wanted_spread = _moments(reference)
    factor = torch.where(spread > 0, wanted_spread / spread, 0)
    return ((image - mean) * factor + wanted_mean).clamp(0, 1)


def _moments(image: Tensor) -> tuple[Tensor, Tensor]:
    return image.mean((-2, -1), keepdim=True), image.std((-2, -1), keepdim=True)


def simple(image: Levels, reference: Levels) -> Levels:
    """`simple` of 2022: match mean and (population) standard deviation of each channel, levels 0..255."""
    spread = image.std(0)
    factor = np.divide(reference.std(0), spread, out=np.zeros_like(spread), where=spread > 0)
    return (image - image.mean(0)) * factor + reference.mean(0)


def histogram(image: Levels, reference: Levels) -> Levels:
    """`histogram` of 2022: `simple`, then match each channel's histogram."""
    moved = simple(image, reference)
    return np.stack([_transfer(*channels) for channels in zip(moved.T, reference.T, strict=True)], axis=1)


def _transfer(levels: Channel, reference: Channel) -> Channel:
    """Map levels so that their cumulative histogram matches the reference."""
    both = np.concatenate([levels, reference])
    edges = np.linspace(both.min() - _MARGIN, both.max() + _MARGIN, BINS + 1)
    below, below_wanted = (np.histogram(values, edges)[0].cumsum() / len(values) for values in (levels, reference))
    target = np.interp(below, below_wanted, edges[:-1])
    target[below <= below_wanted[0]] = reference.min() - _MARGIN
    target[below >= below_wanted[-1]] = reference.max() + _MARGIN
    moved: Channel = np.interp(levels, edges[:-1], target)
    return moved


METHODS: Mapping[str, Callable[[Levels, Levels], Levels]] = {"simple": simple, "histogram": histogram}
"""Colour matching methods on levels 0..255, one row of three per pixel."""


def match_colours(image: Pixels, reference: Pixels, method: str = "simple", keep: float = 0.0) -> Pixels:
    """Match the colours of an image to a reference, as in 2022.

    Args:
        image, reference: levels 0..255, any sizes.
        method: a key of `METHODS`.
        keep: weight of the unmodified image, 0 to 1.

    Raises:
        ValueError: an unknown method, or `keep` out of range.
    """
    chosen("method of colour matching", method, METHODS)
    keep = number("keep", keep, most=1)
    levels, wanted = (_levels(array) for array in (image, reference))
    matched = METHODS[method](levels, wanted) * (1 - keep) + levels * keep
    return matched.clip(0, 255).astype(np.uint8).reshape(image.shape)


def _levels(array: Shaped[np.ndarray, "h w 3"]) -> Levels:
    return array.reshape(-1, 3).astype(np.float64)


def in_colours_of(image: Image.Image, reference: Image.Image, method: str = "simple", keep: float = 0.0) -> Image.Image:
    """Apply `match_colours` to PIL images."""
    levels, wanted = (np.asarray(one.convert("RGB")) for one in (image, reference))
    return Image.fromarray(match_colours(levels, wanted, method, keep))
