"""Rendering: white ground, box mean, tall pictures, lossless storage."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from versatile_diffusion.recipes.emoji.data.drawings import Drawing
from versatile_diffusion.recipes.emoji.data.render import decode, encode, is_blank, render


def document(width: int, height: int, body: str) -> Drawing:
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    text = f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{body}</svg>'
    return Drawing("1", 1, "svg", text.encode())


def test_svg_lies_on_white_and_halves_are_averaged():
    pytest.importorskip("resvg_py")
    picture = render(document(64, 64, '<rect width="32.5" height="64"/>'), 64)
    assert picture.shape == (64, 64, 3)
    assert picture.dtype == np.uint8
    assert (picture[:, :32] == 0).all()
    assert (picture[:, 32] == 128).all()  # half a pixel is one of the two columns it is averaged from
    assert (picture[:, 33:] == 255).all()


@pytest.mark.parametrize(("width", "height"), [(16, 32), (32, 16)])
def test_other_shapes_are_centred_in_a_square(width, height):
    pytest.importorskip("resvg_py")
    ink = render(document(width, height, f'<rect width="{width}" height="{height}"/>'), 64).max(axis=2) < 128
    assert (ink.any(axis=1).sum(), ink.any(axis=0).sum()) == (64 * height // 32, 64 * width // 32)
    assert (ink == ink[::-1]).all()
    assert (ink == ink[:, ::-1]).all()


def test_webp_is_laid_on_white():
    buffer = io.BytesIO()
    Image.new("RGBA", (256, 256), (0, 0, 0, 0)).save(buffer, "WEBP", lossless=True)
    picture = render(Drawing("1", 1, "webp", buffer.getvalue()), 64)
    assert (picture == 255).all()
    assert is_blank(picture)


def test_storage_is_lossless():
    picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert (decode(encode(picture)) == picture).all()
    assert not is_blank(picture)
