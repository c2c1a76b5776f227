"""Deterministic rendering of drawings to square RGB images on white."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from PIL import Image

from versatile_diffusion.modalities.image import check_image
from versatile_diffusion.recipes.emoji.data.drawings import Drawing

OVERSAMPLING = 2
MIN_DEVIATION = 8.0  # standard deviation of pixels below which an image is blank
_WHITE = (255, 255, 255)


def _svg_shape(text: str) -> tuple[float, float]:
    """Return (width, height) of the viewBox; square if missing."""
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
    """Render at twice the size and average: resvg's own antialiasing loses thin lines at 64 px."""
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
    canvas = np.asarray(_square(check_image(bytes(png)), side), dtype=np.uint16)
    blocks = canvas.reshape(size, OVERSAMPLING, size, OVERSAMPLING, 3)
    total = blocks.sum(axis=(1, 3), dtype=np.uint16)
    count = OVERSAMPLING**2
    mean: np.ndarray = ((total + count // 2) // count).astype(np.uint8)
    return mean


def _render_webp(source: bytes, size: int) -> np.ndarray:
    return np.asarray(check_image(source).resize((size, size), Image.Resampling.LANCZOS))


_RENDERERS: dict[str, Callable[[bytes, int], np.ndarray]] = {"svg": _render_svg, "webp": _render_webp}


def render(drawing: Drawing, size: int) -> np.ndarray:
    """Render a drawing to uint8 (size, size, 3)."""
    return _RENDERERS[drawing.kind](drawing.source, size)


def is_blank(picture: np.ndarray) -> bool:
    """Return whether the image shows too little to learn from."""
    return float(picture.std()) < MIN_DEVIATION


def encode(picture: np.ndarray) -> bytes:
    """Encode an image as lossless WebP."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "WEBP", lossless=True, quality=80, method=4)
    return buffer.getvalue()


def decode(data: bytes) -> np.ndarray:
    """Decode an encoded image to pixels."""
    return np.asarray(check_image(data))
