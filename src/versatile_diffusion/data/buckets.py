"""Shapes for pictures of many proportions: few enough that a batch of one shape is easily found."""

from __future__ import annotations

import math
from dataclasses import dataclass

from PIL import Image

Shape = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True)
class Buckets:
    """The shapes that pictures are given, all of about one area.

    Args:
        shapes: from tall to wide.
    """

    shapes: tuple[Shape, ...]

    @classmethod
    def of(cls, side: int, multiple: int, widest: float) -> Buckets:
        """All shapes with no more pixels than the square of `side`, and none larger within them.

        Args:
            side: of the square among them, in pixels.
            multiple: of which every side is one: what codec and diffuser divide it by.
            widest: the longer side over the shorter one, at most.

        Raises:
            ValueError: the square is none of the shapes, or `widest` is below 1.
        """
        if multiple < 1 or side < 1 or side % multiple:
            raise ValueError(f"a side of {side} pixels is no multiple of {multiple}")
        if not 1 <= widest < math.inf:
            raise ValueError(f"the widest shape is {widest} : 1; it must be a number from 1 up")
        cells = side // multiple
        tall = [(cells**2 // columns, columns) for columns in range(1, cells + 1)]
        wide = [(columns, rows) for rows, columns in reversed(tall)]
        shapes = dict.fromkeys((r, c) for r, c in (*tall, *wide) if max(r, c) <= widest * min(r, c))
        return cls(tuple((multiple * rows, multiple * columns) for rows, columns in shapes))

    def nearest(self, picture: Image.Image) -> Shape:
        """The shape whose proportions are nearest to those of a picture."""
        wanted = math.log(picture.height / picture.width)
        return min(self.shapes, key=lambda shape: abs(math.log(shape[0] / shape[1]) - wanted))


def cut(picture: Image.Image, shape: Shape) -> Image.Image:
    """The middle of a picture, as much of it as has the proportions of a shape."""
    height, width = shape
    scale = min(picture.height / height, picture.width / width)
    rows, columns = max(1, round(scale * height)), max(1, round(scale * width))
    left, top = (picture.width - columns) // 2, (picture.height - rows) // 2
    return picture.crop((left, top, left + columns, top + rows))
