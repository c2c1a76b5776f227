"""Image previews in the terminal: by its graphics protocol, or as coloured half blocks."""

from __future__ import annotations

import base64
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from io import BytesIO
from itertools import groupby
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

MOST_COLUMNS, MOST_ROWS = 64, 24  # keep other output on the screen
CHUNK = 4096
CELL = (10, 20)  # character size assumed by pixel-based protocols
SIXEL_COLOURS = 128
ESCAPE, RESET = "\x1b", "\x1b[0m"
CUBE = (0, 95, 135, 175, 215, 255)

KITTY = ("xterm-kitty", "ghostty", "xterm-ghostty")
ITERM = ("iTerm.app", "iTerm2", "WezTerm", "mintty", "vscode")
SIXEL = ("foot", "foot-extra", "mlterm", "yaft-256color", "contour", "xterm-sixel", "st-sixel")
MULTIPLEXERS = ("tmux", "screen")

Draw = Callable[["Image.Image", int], str]
"""Function from an image and the maximum number of columns to the escape sequence."""


def preview(image: Image.Image, wanted: bool | None) -> None:
    """Draw an image on stdout.

    Args:
        image: any image.
        wanted: whether to draw; None draws if stdout is a terminal that can show images.
    """
    draw = protocol(os.environ)
    if wanted is False or (wanted is None and not (sys.stdout.isatty() and draw)):
        return
    columns = os.get_terminal_size().columns if sys.stdout.isatty() else 80
    print((draw or in_true_colour)(image.convert("RGB"), min(columns, MOST_COLUMNS)), flush=True)


def protocol(environment: Mapping[str, str]) -> Draw | None:
    """Choose the image protocol from the terminal's environment variables; None if it has none."""
    term, program = environment.get("TERM", ""), environment.get("TERM_PROGRAM", "")
    if term in ("", "dumb") or "NO_COLOR" in environment:
        return None
    if "TMUX" not in environment and not term.startswith(MULTIPLEXERS):  # multiplexers drop unknown sequences
        if term in KITTY or program == "ghostty" or "KITTY_WINDOW_ID" in environment:
            return as_kitty
        if program in ITERM or environment.get("LC_TERMINAL") in ITERM:
            return as_iterm
        if term in SIXEL:
            return as_sixel
    if environment.get("COLORTERM") in ("truecolor", "24bit"):
        return in_true_colour
    return in_256_colours if "256color" in term else None


def as_kitty(image: Image.Image, columns: int) -> str:
    """kitty graphics protocol: a PNG in base64 chunks."""
    width, _ = _cells(image, columns)
    text = base64.b64encode(_png(image)).decode()
    pieces = [text[k : k + CHUNK] for k in range(0, len(text), CHUNK)]
    last = len(pieces) - 1
    heads = (f"a=T,f=100,c={width},m={int(k < last)}" if k == 0 else f"m={int(k < last)}" for k in range(len(pieces)))
    return "".join(f"{ESCAPE}_G{head};{piece}{ESCAPE}\\" for head, piece in zip(heads, pieces, strict=True))


def as_iterm(image: Image.Image, columns: int) -> str:
    """iTerm2 inline images, also supported by several other terminals."""
    data, (width, _) = _png(image), _cells(image, columns)
    options = f"inline=1;size={len(data)};width={width};preserveAspectRatio=1"
    return f"{ESCAPE}]1337;File={options}:{base64.b64encode(data).decode()}\a"


def as_sixel(image: Image.Image, columns: int) -> str:
    """Sixel graphics: bands of six rows, one pass per colour."""
    import numpy as np

    width, height = _cells(image, columns)
    small = image.resize((width * CELL[0], height * CELL[1])).quantize(SIXEL_COLOURS)
    places, palette = np.asarray(small), np.reshape(small.getpalette() or [], (-1, 3))
    colours = "".join(f"#{k};2;{';'.join(str(round(v / 2.55)) for v in rgb)}" for k, rgb in enumerate(palette))
    rows = np.pad(places.astype(np.int16), ((0, -len(places) % 6), (0, 0)), constant_values=-1)
    bands = (_band(band) for band in rows.reshape(-1, 6, rows.shape[1]))
    return f'{ESCAPE}Pq"1;1;{small.width};{small.height}{colours}{"-".join(bands)}{ESCAPE}\\'


def _band(band: np.ndarray) -> str:
    """Args: band: (6, W) colour indices."""
    import numpy as np

    bits = 1 << np.arange(6)[:, None]
    lines = []
    for colour in np.unique(band[band >= 0]):
        codes = ((band == colour) * bits).sum(axis=0) + 63
        lines.append(f"#{colour}{''.join(_run(chr(code), len([*same])) for code, same in groupby(codes))}")
    return "$".join(lines)


def _run(sixel: str, count: int) -> str:
    """Run-length encode a sixel."""
    return f"!{count}{sixel}" if count > 3 else sixel * count


def in_true_colour(image: Image.Image, columns: int) -> str:
    """Half blocks in 24-bit colour: foreground for the upper pixel, background for the lower."""
    return _half_blocks(image, columns, lambda rgb: f"2;{rgb[0]};{rgb[1]};{rgb[2]}")


def in_256_colours(image: Image.Image, columns: int) -> str:
    """Half blocks in the 6 x 6 x 6 colour cube."""
    return _half_blocks(image, columns, lambda rgb: f"5;{_cube(rgb)}")


def _half_blocks(image: Image.Image, columns: int, colour: Callable[[tuple[int, int, int]], str]) -> str:
    width, height = _cells(image, columns)
    small = image.resize((width, 2 * height))
    pixels = small.load()
    assert pixels is not None

    def line(row: int) -> Iterator[str]:
        for column in range(width):
            upper, lower = (colour(pixels[column, 2 * row + k]) for k in (0, 1))  # type: ignore[arg-type]
            yield f"{ESCAPE}[38;{upper};48;{lower}m\u2580"

    return "\n".join("".join(line(row)) + RESET for row in range(height))


def _cube(rgb: tuple[int, int, int]) -> int:
    red, green, blue = (min(range(6), key=lambda k: abs(CUBE[k] - level)) for level in rgb)
    return 16 + 36 * red + 6 * green + blue


def _cells(image: Image.Image, columns: int) -> tuple[int, int]:
    """Return columns and rows of characters (twice as high as wide) for an image, aspect ratio kept."""
    scale = min(columns / image.width, 2 * MOST_ROWS / image.height)
    return max(1, round(image.width * scale)), max(1, round(image.height * scale / 2))


def _png(image: Image.Image) -> bytes:
    stream = BytesIO()
    image.save(stream, format="PNG")
    return stream.getvalue()
