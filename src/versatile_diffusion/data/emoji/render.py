"""Rendering: a drawing becomes a square RGB picture on white, always by the same steps."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image

from versatile_diffusion.data.emoji.drawings import Drawing

OVERSAMPLING = 2
MIN_DEVIATION = 8.0  # of the pixels: below it a picture is as good as blank
_WHITE = (255, 255, 255)


def _svg_shape(text: str) -> tuple[float, float]:
    """(width, height) of the viewBox, or square where none is stated."""
    start = text.find('viewBox="')
    if start < 0:
        return 1.0, 1.0
    _, _, width, height = (
        float(number) for number in text[start + 9 : text.index('"', start + 9)].replace(",", " ").split()
    )
    return width, height


def _square(picture: Image.Image, side: int) -> Image.Image:
    canvas = Image.new("RGB", (side, side), _WHITE)
    canvas.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return canvas


def _render_svg(source: bytes, size: int) -> np.ndarray:
    """Drawn at twice the size and averaged: resvg's own smoothing at 64 px loses thin lines."""
    import resvg_py

    text, side = source.decode("utf-8"), size * OVERSAMPLING
    width, height = _svg_shape(text)
    tall = height > width
    png = resvg_py.svg_to_bytes(
        svg_string=text,
        background="#ffffff",
        skip_system_fonts=True,
        width=None if tall else side,
        height=side if tall else None,
    )
    canvas = np.asarray(_square(Image.open(io.BytesIO(bytes(png))).convert("RGB"), side), dtype=np.uint16)
    blocks = canvas.reshape(size, OVERSAMPLING, size, OVERSAMPLING, 3)
    total = blocks.sum(axis=(1, 3), dtype=np.uint16)
    count = OVERSAMPLING**2
    return ((total + count // 2) // count).astype(np.uint8)


def _render_webp(source: bytes, size: int) -> np.ndarray:
    picture = Image.open(io.BytesIO(source)).convert("RGBA")
    canvas = Image.new("RGBA", picture.size, (*_WHITE, 255))
    canvas.alpha_composite(picture)
    return np.asarray(canvas.convert("RGB").resize((size, size), Image.Resampling.LANCZOS))


_RENDERERS: dict[str, Callable[[bytes, int], np.ndarray]] = {"svg": _render_svg, "webp": _render_webp}


def render(drawing: Drawing, size: int) -> np.ndarray:
    """The picture of a drawing, uint8 (size, size, 3)."""
    return _RENDERERS[drawing.kind](drawing.source, size)


def is_blank(picture: np.ndarray) -> bool:
    """Whether so little is to be seen that the picture would only teach white."""
    return float(picture.std()) < MIN_DEVIATION


def encode(picture: np.ndarray) -> bytes:
    """The picture as lossless WebP."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "WEBP", lossless=True, quality=80, method=4)
    return buffer.getvalue()


def decode(data: bytes) -> np.ndarray:
    """The pixels of an encoded picture."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
