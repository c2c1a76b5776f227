"""Grids of images: every image in its place, and nothing between them but paper."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageFont

from versatile_diffusion.sheets import GRID_COLOUR, Layout, _fit_labels, grid, in_rows, label_grid, tile_images, wrap

COLOURS = ["red", "green", "blue", "black", "yellow", "cyan"]


def tiles(size: tuple[int, int] = (16, 8), count: int = len(COLOURS)) -> list[Image.Image]:
    return [Image.new("RGB", size, colour) for colour in COLOURS[:count]]


def test_a_sheet_has_every_picture_in_its_place() -> None:
    drawn = label_grid(tiles(), ["one", "two"], ["a", "b", "c"])
    left, top = drawn.width - 3 * (128 + 4), drawn.height - 2 * (64 + 4)
    for place, tile in enumerate(tiles()):
        row, column = divmod(place, 3)
        assert drawn.getpixel((left + column * 132 + 64, top + row * 68 + 32)) == tile.getpixel((0, 0))
    labels = np.asarray(drawn.convert("L"))
    assert labels[:top].min() < 128
    assert labels[:, :left].min() < 128


def test_labels_go_on_in_a_second_line_and_are_not_cut() -> None:
    labels = ["noto", "style emojione-monotone", "fluent-emoji-high-contrast"]
    titles, font = _fit_labels(labels, width=128)
    assert [title.replace("\n", " ").replace("- ", "-") for title in titles] == labels
    assert max(font.getlength(line) for title in titles for line in title.splitlines()) <= 128


def test_a_layout_says_where_tiles_are_and_how_large_the_sheet_is() -> None:
    layout = Layout(3, (10, 20), gap=2, left=5, top=7, below=4)
    assert [layout.place(number) for number in (0, 2, 3)] == [(5, 7), (29, 7), (5, 33)]
    assert layout.size(3) == (41, 33)
    assert layout.size(4) == (41, 59)


def test_an_empty_place_is_paper() -> None:
    sheet = tile_images([None, *tiles(count=1)], Layout(2, (4, 4)), paper="white")
    assert sheet.size == (8, 4)
    assert sheet.crop((0, 0, 4, 4)).getcolors() == [(16, (255, 255, 255))]
    assert sheet.crop((4, 0, 8, 4)).getcolors() == [(16, (255, 0, 0))]


@pytest.mark.parametrize(("columns", "shape"), [(None, (3, 2)), (2, (2, 3)), (6, (6, 1))])
def test_a_grid_is_nearly_square_without_a_gap_at_its_edges(columns: int | None, shape: tuple[int, int]) -> None:
    sheet = grid(tiles(), columns)
    assert sheet.size == (194 * shape[0] - 2, 98 * shape[1] - 2)
    for number, tile in enumerate(tiles()):
        row, column = divmod(number, shape[0])
        assert sheet.getpixel((194 * column + 191, 98 * row + 95)) == tile.getpixel((0, 0))
    if shape[0] > 1:
        assert sheet.getpixel((192, 0)) == GRID_COLOUR


def test_rows_that_belong_together_stay_below_each_other_in_every_part() -> None:
    above, below = tiles((8, 8), 3), [image.point(lambda level: 255 - level) for image in tiles((4, 4), 3)]
    sheet = in_rows(above, below, columns=2)
    assert sheet.size == (8, 16)
    for number, (one, other) in enumerate(zip(above, below, strict=True)):
        x, y = number % 2 * 4, number // 2 * 8
        assert sheet.getpixel((x + 1, y + 1)) == one.getpixel((0, 0))
        assert ImageChops.difference(sheet.crop((x, y + 4, x + 4, y + 8)), other).getbbox() is None
    assert sheet.crop((4, 8, 8, 16)).getcolors() == [(32, (255, 255, 255))]


def test_lines_end_after_spaces_and_hyphens() -> None:
    font = ImageFont.load_default(12)
    assert wrap("a high-contrast red apple", 70, font) == ["a high-", "contrast red", "apple"]
