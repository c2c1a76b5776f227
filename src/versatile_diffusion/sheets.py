"""Sheets: several images tiled on one, plain, in rows, or with labels. Every grid of images is drawn here."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image, ImageFont

    Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

GRID_GAP, GRID_TILE, GRID_COLOUR = 2, 192, (208, 208, 208)
GAP = 4
SMALLEST_TILE = 128
FONT_SIZE = 14
SMALLEST_FONT = 9
INK, PAPER = (32, 32, 32), (255, 255, 255)


@dataclass(frozen=True)
class Layout:
    """Geometry of a sheet, in pixels. Tiles are numbered row by row.

    Args:
        columns: tiles per row.
        tile: width and height of a tile.
        gap: right of each tile and below it.
        left, top: margins before the first tile.
        below: room under each tile for writing.
    """

    columns: int
    tile: tuple[int, int]
    gap: int = 0
    left: int = 0
    top: int = 0
    below: int = 0

    def place(self, number: int) -> tuple[int, int]:
        """Return the left upper corner of a tile."""
        row, column = divmod(number, self.columns)
        width, height = self.tile
        return self.left + column * (width + self.gap), self.top + row * (height + self.below + self.gap)

    def size(self, count: int) -> tuple[int, int]:
        """Return the size of a sheet of `count` tiles."""
        rows = math.ceil(count / self.columns)
        width, height = self.tile
        return self.left + self.columns * (width + self.gap), self.top + rows * (height + self.below + self.gap)


def tile_images(
    images: Sequence[Image.Image | None],
    layout: Layout,
    paper: str | tuple[int, int, int] = PAPER,
    resample: Image.Resampling | None = None,
) -> Image.Image:
    """Draw images at the size of a tile, nearest pixel unless `resample` says otherwise; None leaves a place empty."""
    from PIL import Image

    sheet = Image.new("RGB", layout.size(len(images)), paper)
    for number, image in enumerate(images):
        if image is not None:
            scaled = image.convert("RGB").resize(layout.tile, resample or Image.Resampling.NEAREST)
            sheet.paste(scaled, layout.place(number))
    return sheet


def grid(images: Sequence[Image.Image], columns: int | None = None) -> Image.Image:
    """Tile images in a nearly square grid (or in `columns`) with thin gaps; tiny images are enlarged."""
    from PIL import Image

    layout = Layout(columns or math.ceil(math.sqrt(len(images))), _enlarge(images[0], GRID_TILE), GRID_GAP)
    sheet = tile_images(images, layout, GRID_COLOUR, Image.Resampling.BICUBIC)
    return sheet.crop((0, 0, sheet.width - GRID_GAP, sheet.height - GRID_GAP))


def in_rows(*rows: Sequence[Image.Image], columns: int) -> Image.Image:
    """Tile several images of each item one below the other, at the size of the last row; after `columns` items the
    rows continue below."""
    from PIL import Image

    images: list[Image.Image | None] = []
    for start in range(0, len(rows[-1]), columns):
        for row in rows:
            part = row[start : start + columns]
            images += [*part, *[None] * (columns - len(part))]
    return tile_images(images, Layout(columns, rows[-1][0].size), resample=Image.Resampling.BICUBIC)


def label_grid(images: Sequence[Image.Image], rows: Sequence[str], columns: Sequence[str]) -> Image.Image:
    """Draw a sheet of `len(rows)` by `len(columns)` images, row by row, with labels at the left and top. Tiny images
    are enlarged; long column labels wrap to a second line and shrink."""
    from PIL import ImageDraw, ImageFont

    font = ImageFont.load_default(FONT_SIZE)
    width, height = _enlarge(images[0], SMALLEST_TILE)
    left = max((math.ceil(font.getlength(label)) + 2 * GAP for label in rows if label), default=0)
    titles, title_font = _fit_labels(columns, width)
    top = max(title.count("\n") + 1 for title in titles) * (FONT_SIZE + 2) + 2 * GAP
    layout = Layout(len(columns), (width, height), GAP, left, top)
    sheet = tile_images(images, layout)
    draw = ImageDraw.Draw(sheet)
    for column, title in enumerate(titles):
        centre = layout.place(column)[0] + width / 2, top / 2
        draw.multiline_text(centre, title, INK, title_font, anchor="mm", align="center", spacing=2)
    for row, label in enumerate(rows):
        draw.text((GAP, layout.place(row * len(columns))[1] + height / 2), label, INK, font, anchor="lm")
    return sheet


def wrap(label: str, width: int, font: Font) -> list[str]:
    """Wrap a label to a width in pixels, after spaces and hyphens."""
    lines = [""]
    for piece in re.findall(r"[^\s-]*[\s-]?", label):
        if lines[-1] and font.getlength((lines[-1] + piece).rstrip()) > width:
            lines.append("")
        lines[-1] += piece
    return [line.rstrip() for line in lines]


def _enlarge(image: Image.Image, smallest: int) -> tuple[int, int]:
    """Multiply the size of a tiny image by a whole number."""
    factor = max(1, math.ceil(smallest / image.width))
    return image.width * factor, image.height * factor


def _fit_labels(labels: Sequence[str], width: int) -> tuple[list[str], Font]:
    """Break labels into at most two lines in the largest font that fits the width; cut those that never fit."""
    from PIL import ImageFont

    for size in range(FONT_SIZE, SMALLEST_FONT - 1, -1):
        font = ImageFont.load_default(size)
        titles = [wrap(label, width, font) for label in labels]
        if all(len(lines) <= 2 and max(map(font.getlength, lines)) <= width for lines in titles):
            break
    return ["\n".join(_cut(line, width, font) for line in lines[-2:]) for lines in titles], font


def _cut(line: str, width: int, font: Font) -> str:
    """Return the end of a line that fits; the value is at the end."""
    while font.getlength(line) > width and len(line) > 1:
        line = line[1:]
    return line
