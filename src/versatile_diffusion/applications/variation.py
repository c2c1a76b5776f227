"""Colour matching: a variation gets the colours of its input, as the apps of 2022 and 2023 do."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from PIL import Image
from torch import Tensor

from versatile_diffusion.choices import unknown
from versatile_diffusion.modalities.image import check_image
from versatile_diffusion.sampling.output import Output, record_of
from versatile_diffusion.sampling.replay import Resolve, value_of

Pixels = UInt8[np.ndarray, "_ _ 3"]
Channel = Float[np.ndarray, " n"]
Levels = Float[np.ndarray, "n 3"]

COLOURS = "match_colours"
BINS = 600
_MARGIN = 1e-6  # so that the outermost levels fall inside the outermost bins


def match_moments(
    picture: Float[Tensor, "*b 3 h w"], reference: Float[Tensor, "*#b 3 rows columns"]
) -> Float[Tensor, "*b 3 h w"]:
    """`simple` of 2023: mean and (unbiased) standard deviation of each channel become the reference's.

    Args:
        picture: RGB, clamped to [0, 1] first.
        reference: RGB in [0, 1], of any size.

    Returns:
        RGB in [0, 1]. A channel of one level only gets the reference's mean (the original gives NaN there).
    """
    picture = picture.clamp(0, 1)
    mean, spread = _moments(picture)
    wanted_mean, wanted_spread = _moments(reference)
    factor = torch.where(spread > 0, wanted_spread / spread, 0)
    return ((picture - mean) * factor + wanted_mean).clamp(0, 1)


def _moments(picture: Tensor) -> tuple[Tensor, Tensor]:
    return picture.mean((-2, -1), keepdim=True), picture.std((-2, -1), keepdim=True)


def simple(picture: Levels, reference: Levels) -> Levels:
    """`simple` of 2022: mean and (population) standard deviation of each channel of levels 0..255."""
    spread = picture.std(0)
    factor = np.divide(reference.std(0), spread, out=np.zeros_like(spread), where=spread > 0)
    return (picture - picture.mean(0)) * factor + reference.mean(0)


def histogram(picture: Levels, reference: Levels) -> Levels:
    """`histogram` of 2022: `simple`, then each channel's distribution becomes the reference's."""
    moved = simple(picture, reference)
    return np.stack([_transfer(*channels) for channels in zip(moved.T, reference.T, strict=True)], axis=1)


def _transfer(levels: Channel, reference: Channel) -> Channel:
    """Levels moved so that as many lie below each bin as in the reference."""
    both = np.concatenate([levels, reference])
    edges = np.linspace(both.min() - _MARGIN, both.max() + _MARGIN, BINS + 1)
    below, below_wanted = (np.histogram(values, edges)[0].cumsum() / len(values) for values in (levels, reference))
    target = np.interp(below, below_wanted, edges[:-1])
    target[below <= below_wanted[0]] = reference.min() - _MARGIN
    target[below >= below_wanted[-1]] = reference.max() + _MARGIN
    return np.interp(levels, edges[:-1], target)


METHODS: Mapping[str, Callable[[Levels, Levels], Levels]] = {"simple": simple, "histogram": histogram}
"""Ways to match colours on levels 0..255, a row of three for each pixel."""


def match_colours(picture: Pixels, reference: Pixels, method: str = "simple", keep: float = 0.0) -> Pixels:
    """A picture in the colours of another, as in 2022.

    Args:
        picture, reference: levels 0..255, of any two sizes.
        method: a key of `METHODS`.
        keep: share of the uncorrected picture, 0 to 1.

    Raises:
        ValueError: the method is unknown, or `keep` is out of range.
    """
    if method not in METHODS:
        raise ValueError(unknown("method of colour matching", method, METHODS))
    if not 0 <= keep <= 1:
        raise ValueError(f"keep is {keep}; it must be from 0 to 1")
    levels, wanted = (_levels(array) for array in (picture, reference))
    matched = METHODS[method](levels, wanted) * (1 - keep) + levels * keep
    return matched.clip(0, 255).astype(np.uint8).reshape(picture.shape)


def _levels(array: Shaped[np.ndarray, "h w 3"]) -> Levels:
    return array.reshape(-1, 3).astype(np.float64)


def matched(output: Output, picture: Any, method: str = "simple") -> Output:
    """The pictures of an output in the colours of another picture; its settings say so."""
    reference = check_image(picture)
    values = [in_colours_of(value, reference, method) for value in output.images]
    record = {"method": method, "picture": record_of(picture, reference)}
    return replace(output, values=values, settings=output.settings | {COLOURS: record})


def matched_again(output: Output, settings: Mapping[str, Any], resolve: Resolve | None = None) -> Output:
    """The same for an output that was made again; `applications.again.replay` calls it."""
    record = settings[COLOURS]
    return matched(output, value_of(record["picture"], check_image, resolve), record["method"])


def in_colours_of(
    picture: Image.Image, reference: Image.Image, method: str = "simple", keep: float = 0.0
) -> Image.Image:
    """`match_colours` on PIL pictures."""
    levels, wanted = (np.asarray(one.convert("RGB")) for one in (picture, reference))
    return Image.fromarray(match_colours(levels, wanted, method, keep))
