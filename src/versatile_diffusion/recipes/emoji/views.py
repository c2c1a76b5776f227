"""Views of a drawing: mirrored, shifted and scaled; captions stay valid."""

from __future__ import annotations

import hashlib

import numpy as np
from PIL import Image

SMALLEST = 0.85
"""Minimum scale of a view; shifts keep the whole drawing visible."""


def views(drawing: np.ndarray, count: int, mirror: bool, key: str) -> list[np.ndarray]:
    """Return the image (side, side, 3) on white, its mirror image if allowed, and further views, `count` in total.

    Args:
        drawing: uint8.
        count: number of views.
        mirror: whether it may be mirrored.
        key: random seed, combined with the view's index.
    """
    return [drawing, *(_view(drawing, number, mirror, key) for number in range(1, count))]


def _view(drawing: np.ndarray, number: int, mirror: bool, key: str) -> np.ndarray:
    if number == 1 and mirror:
        return np.ascontiguousarray(drawing[:, ::-1])
    seed = hashlib.sha256(f"{key}/{number}".encode()).digest()
    chance = np.random.default_rng(np.frombuffer(seed, dtype=np.uint32))
    side = len(drawing)
    scale = chance.uniform(SMALLEST, 1)
    across, down = side / 2 + chance.uniform(-1, 1, 2) * (1 - scale) * side / 2
    turned = -1 if mirror and chance.uniform() < 0.5 else 1
    # Maps view coordinates to image coordinates.
    places = (turned / scale, 0.0, side / 2 - turned * across / scale, 0.0, 1 / scale, side / 2 - down / scale)
    image = Image.fromarray(drawing)
    moved = image.transform(
        (side, side), Image.Transform.AFFINE, places, Image.Resampling.BICUBIC, fillcolor=(255, 255, 255)
    )
    return np.asarray(moved)
