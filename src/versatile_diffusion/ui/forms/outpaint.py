"""Outpainting: an image is placed on a larger canvas, of which the new part is regenerated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image

from versatile_diffusion.choices import unknown

NONE = "none"
SIDES: dict[str, tuple[int, int, int, int]] = {
    NONE: (0, 0, 0, 0),
    "left": (1, 0, 0, 0),
    "right": (0, 0, 1, 0),
    "top": (0, 1, 0, 0),
    "bottom": (0, 0, 0, 1),
    "left and right": (1, 0, 1, 0),
    "top and bottom": (0, 1, 0, 1),
    "all": (1, 1, 1, 1),
}
"""Sides that grow: left, top, right, bottom."""
OVERLAP = 1 / 16
"""Share of the image beside a new part that is regenerated, too, so that no seam is left."""


@dataclass(frozen=True)
class Canvas:
    """A larger canvas. Args: image: the image on it, its edges drawn out. mask: 1 where it is to be regenerated."""

    image: Image.Image
    mask: np.ndarray


def draw_outpaint() -> dict[str, Any]:
    """Draw the controls, by name."""
    with gr.Row(elem_classes="simple"):
        info = "The canvas grows on these sides; the new part is generated."
        sides = gr.Dropdown([*SIDES], value=NONE, label="Outpaint", info=info)
        share = gr.Slider(0.125, 1, 0.25, step=0.125, label="Outpaint by", info="Share of the image's side.")
    return {"outpaint": sides, "outpaint_by": share}


def enlarge(image: Image.Image, painted: Image.Image | None, sides: str, share: float, multiple: int) -> Canvas:
    """Place an image on a canvas that is larger by `share` on these sides, rounded to a multiple of pixels.

    Args:
        image: fitted to the model.
        painted: painted mask of any size, white where the image is to be regenerated; None for nowhere.
        sides: key of `SIDES`.
        share: growth of each side.
        multiple: see `fields.multiple_of`.

    Raises:
        ValueError: an unknown side.
    """
    if sides not in SIDES:
        raise ValueError(unknown("side", sides, SIDES))
    grows = SIDES[sides]
    across, down = (max(1, round(side * share / multiple)) * multiple for side in image.size)
    left, top, right, bottom = (on * by for on, by in zip(grows, (across, down) * 2, strict=True))
    pixels = np.pad(np.asarray(image), ((top, bottom), (left, right), (0, 0)), mode="edge")
    mask = np.zeros(pixels.shape[:2], np.float32)
    if painted is not None:
        inside = painted.resize(image.size, Image.Resampling.BILINEAR)
        mask[top : top + image.height, left : left + image.width] = np.asarray(inside, np.float32) / 255
    _mark(mask, grows, (left, top, right, bottom), [round(side * OVERLAP) for side in image.size * 2])
    return Canvas(Image.fromarray(pixels), mask)


def _mark(mask: np.ndarray, grows: Sequence[int], sizes: Sequence[int], overlaps: Sequence[int]) -> None:
    """Mark the new parts, and a little of the image beside them."""
    left, top, right, bottom = (on * (size + more) for on, size, more in zip(grows, sizes, overlaps, strict=True))
    mask[:, :left], mask[:top] = 1, 1
    mask[:, mask.shape[1] - right :], mask[mask.shape[0] - bottom :] = 1, 1
