"""Drawing many pictures on one sheet, with labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image, ImageFont

GAP = 4
SMALLEST_TILE = 128
FONT_SIZE = 14
INK, PAPER = (32, 32, 32), (255, 255, 255)


def labelled(images: Sequence[Image.Image], rows: Sequence[str], columns: Sequence[str]) -> Image.Image:
    """A sheet of `len(rows)` by `len(columns)` pictures, row by row, with labels at the left and on top; tiny pictures
    are enlarged, and labels that are too long for their column are cut."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(FONT_SIZE)
    width, height = images[0].size
    factor = max(1, math.ceil(SMALLEST_TILE / width))
    width, height = width * factor, height * factor
    left = max((math.ceil(font.getlength(label)) + 2 * GAP for label in rows if label), default=0)
    top = FONT_SIZE + 2 * GAP
    size = (left + len(columns) * (width + GAP), top + len(rows) * (height + GAP))
    canvas = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(canvas)
    for column, label in enumerate(columns):
        text = _cut(label, width, font)
        draw.text((left + column * (width + GAP) + width / 2, top / 2), text, INK, font, anchor="mm")
    for row, label in enumerate(rows):
        draw.text((GAP, top + row * (height + GAP) + height / 2), label, INK, font, anchor="lm")
    for place, image in enumerate(images):
        row, column = divmod(place, len(columns))
        tile = image.convert("RGB").resize((width, height), Image.Resampling.NEAREST)
        canvas.paste(tile, (left + column * (width + GAP), top + row * (height + GAP)))
    return canvas


def _cut(label: str, width: int, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """The end of a label that fits: it holds the value."""
    while font.getlength(label) > width and len(label) > 1:
        label = label[1:]
    return label
