"""Pictures in the terminal: which way for which terminal, and what each way writes."""

from __future__ import annotations

import base64
import re
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import Command
from versatile_diffusion.cli.io import preview as drawing
from versatile_diffusion.cli.io.preview import as_iterm, as_kitty, as_sixel, in_256_colours, in_true_colour, protocol

COLOUR = {"TERM": "xterm-256color", "COLORTERM": "truecolor"}


@pytest.mark.parametrize(
    ("environment", "draw"),
    [
        ({}, None),
        ({"TERM": "dumb"}, None),
        ({"TERM": "vt100"}, None),
        ({"TERM": "xterm-256color"}, in_256_colours),
        (COLOUR, in_true_colour),
        (COLOUR | {"NO_COLOR": "1"}, None),
        ({"TERM": "xterm-kitty"}, as_kitty),
        (COLOUR | {"TERM_PROGRAM": "ghostty"}, as_kitty),
        (COLOUR | {"TERM_PROGRAM": "iTerm.app"}, as_iterm),
        (COLOUR | {"LC_TERMINAL": "iTerm2"}, as_iterm),
        ({"TERM": "foot"}, as_sixel),
        ({"TERM": "tmux-256color", "KITTY_WINDOW_ID": "1", "TMUX": "x"}, in_256_colours),
        (COLOUR | {"TERM": "screen-256color", "LC_TERMINAL": "iTerm2"}, in_true_colour),
    ],
)
def test_ways_by_terminal(environment: dict[str, str], draw: object) -> None:
    assert protocol(environment) is draw


@pytest.fixture
def halves() -> Image.Image:
    """Red over blue, 40 x 40."""
    picture = Image.new("RGB", (40, 40), "red")
    picture.paste("blue", (0, 20, 40, 40))
    return picture


def test_half_blocks(halves: Image.Image) -> None:
    lines = in_true_colour(halves, 10).splitlines()
    assert (len(lines), lines[0].count("\u2580")) == (5, 10)
    assert lines[0].startswith("\x1b[38;2;255;0;0;48;2;255;0;0m\u2580")
    assert "38;2;0;0;255;48;2;0;0;255m" in lines[-1]
    assert all(line.endswith("\x1b[0m") for line in lines)
    assert in_256_colours(halves, 10).startswith("\x1b[38;5;196;48;5;196m\u2580")
    assert len(in_true_colour(halves.resize((40, 400)), 60).splitlines()) == drawing.MOST_ROWS


def test_kitty_and_iterm_hold_the_picture(halves: Image.Image) -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    pieces = re.findall(r"\x1b_G([^;]*);([^\x1b]*)\x1b\\", as_kitty(noise, 20))
    assert len(pieces) > 1
    assert ["m=1" in head for head, _ in pieces] == [True] * (len(pieces) - 1) + [False]
    assert all(len(text) <= 4096 for _, text in pieces)
    sent = {"kitty": (noise, "".join(text for _, text in pieces))}
    sent["iterm"] = (halves, as_iterm(halves, 20).rstrip("\a").partition(":")[2])
    for picture, text in sent.values():
        shown = Image.open(BytesIO(base64.b64decode(text)))
        assert np.array_equal(np.asarray(shown), np.asarray(picture))


def test_sixels_paint_every_pixel_once(halves: Image.Image) -> None:
    text = as_sixel(halves, 4)
    body = re.fullmatch(r'\x1bPq"1;1;40;40((?:#\d+;2;\d+;\d+;\d+)+)(.*)\x1b\\', text, re.DOTALL)
    assert body is not None
    palette = {int(k): rgb for k, *rgb in re.findall(r"#(\d+);2;(\d+);(\d+);(\d+)", body[1])}
    painted = np.zeros((42, 40), int)
    colours = np.zeros((42, 40), int)
    for top, band in enumerate(body[2].split("-")):
        for line in band.split("$"):
            number, codes = re.fullmatch(r"#(\d+)(.*)", line, re.DOTALL).groups()
            codes = re.sub(r"!(\d+)(.)", lambda run: int(run[1]) * run[2], codes)
            bits = (np.array([ord(code) - 63 for code in codes]) >> np.arange(6)[:, None]) & 1
            painted[6 * top : 6 * top + 6] += bits
            colours[6 * top : 6 * top + 6] += bits * int(number)
    assert (painted[:40] == 1).all()
    assert palette[colours[0, 0]] == ["100", "0", "0"]
    assert palette[colours[39, 0]] == ["0", "0", "100"]


def test_it_is_drawn_only_where_wanted(versatile: Command, model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in COLOUR.items():
        monkeypatch.setenv(name, value)
    few = ("text-to-image", "a", "--model", model, "--steps", 1)
    assert "\u2580" not in versatile(*few).out, "stdout is no terminal"
    assert "\u2580" in versatile(*few, "--preview").out
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setattr("os.get_terminal_size", lambda *_: __import__("os").terminal_size((80, 24)))
    drawing.preview(Image.new("RGB", (8, 8)), wanted=False)
