"""Aspect-ratio buckets: few enough shapes that a batch of one shape fills quickly."""

from __future__ import annotations

import math
from dataclasses import dataclass

from PIL import Image

Shape = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True)
class Buckets:
    """Target shapes of about equal area.

    Args:
        shapes: height and width, from tall to wide.
    """

    shapes: tuple[Shape, ...]

    @classmethod
    def of(cls, side: int, multiple: int, widest: float) -> Buckets:
        """Buckets with at most `side` x `side` pixels, as large as that allows.

        Args:
            side: of the square bucket, in pixels.
            multiple: every side is a multiple of it: the downscaling factor of codec and diffuser.
            widest: maximum ratio of the longer side to the shorter one.

        Raises:
            ValueError: `side` is not a multiple of `multiple`, or `widest` is below 1.
        """
        if multiple < 1 or side < 1 or side % multiple:
            raise ValueError(f"a side of {side} pixels is not a multiple of {multiple}")
        if not 1 <= widest < math.inf:
            raise ValueError(f"the maximum aspect ratio is {widest} : 1; it must be 1 or more")
        cells = side // multiple
        tall = [(cells**2 // columns, columns) for columns in range(1, cells + 1)]
        wide = [(columns, rows) for rows, columns in reversed(tall)]
        shapes = dict.fromkeys((r, c) for r, c in (*tall, *wide) if max(r, c) <= widest * min(r, c))
        return cls(tuple((multiple * rows, multiple * columns) for rows, columns in shapes))

    def nearest(self, picture: Image.Image) -> Shape:
        """The shape with the aspect ratio closest to that of an image."""
        wanted = math.log(picture.height / picture.width)
        return min(self.shapes, key=lambda shape: abs(math.log(shape[0] / shape[1]) - wanted))


def cut(picture: Image.Image, shape: Shape) -> Image.Image:
    """Center-crop an image to the aspect ratio of a shape."""
    height, width = shape
    scale = min(picture.height / height, picture.width / width)
    rows, columns = max(1, round(scale * height)), max(1, round(scale * width))
    left, top = (picture.width - columns) // 2, (picture.height - rows) // 2
    return picture.crop((left, top, left + columns, top + rows))
