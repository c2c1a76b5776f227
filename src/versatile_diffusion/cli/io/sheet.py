"""Labelled image sheets."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image, ImageFont

    Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

GAP = 4
SMALLEST_TILE = 128
FONT_SIZE = 14
SMALLEST_FONT = 9
INK, PAPER = (32, 32, 32), (255, 255, 255)


def labelled(images: Sequence[Image.Image], rows: Sequence[str], columns: Sequence[str]) -> Image.Image:
    """Draw a sheet of `len(rows)` by `len(columns)` images, row by row, with labels at the left and top. Tiny images
    are enlarged; long column labels wrap to a second line and shrink."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(FONT_SIZE)
    width, height = images[0].size
    factor = max(1, math.ceil(SMALLEST_TILE / width))
    width, height = width * factor, height * factor
    left = max((math.ceil(font.getlength(label)) + 2 * GAP for label in rows if label), default=0)
    titles, title_font = _fitted(columns, width)
    top = max(title.count("\n") + 1 for title in titles) * (FONT_SIZE + 2) + 2 * GAP
    size = (left + len(columns) * (width + GAP), top + len(rows) * (height + GAP))
    canvas = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(canvas)
    for column, title in enumerate(titles):
        centre = left + column * (width + GAP) + width / 2, top / 2
        draw.multiline_text(centre, title, INK, title_font, anchor="mm", align="center", spacing=2)
    for row, label in enumerate(rows):
        draw.text((GAP, top + row * (height + GAP) + height / 2), label, INK, font, anchor="lm")
    for place, image in enumerate(images):
        row, column = divmod(place, len(columns))
        tile = image.convert("RGB").resize((width, height), Image.Resampling.NEAREST)
        canvas.paste(tile, (left + column * (width + GAP), top + row * (height + GAP)))
    return canvas


def _fitted(labels: Sequence[str], width: int) -> tuple[list[str], Font]:
    """Break labels into at most two lines in the largest font that fits the width; cut those that never fit."""
    from PIL import ImageFont

    for size in range(FONT_SIZE, SMALLEST_FONT - 1, -1):
        font = ImageFont.load_default(size)
        titles = [_in_lines(label, width, font) for label in labels]
        if all(len(lines) <= 2 and max(map(font.getlength, lines)) <= width for lines in titles):
            break
    return ["\n".join(_cut(line, width, font) for line in lines[-2:]) for lines in titles], font


def _in_lines(label: str, width: int, font: Font) -> list[str]:
    """Wrap a label after spaces and hyphens."""
    lines = [""]
    for piece in re.findall(r"[^\s-]*[\s-]?", label):
        if lines[-1] and font.getlength((lines[-1] + piece).rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return [line.rstrip() for line in lines]


def _cut(line: str, width: int, font: Font) -> str:
    """Return the end of a line that fits; the value is at the end."""
    while font.getlength(line) > width and len(line) > 1:
        line = line[1:]
    return line
