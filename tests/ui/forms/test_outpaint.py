"""A larger canvas: what stays of the image, and what is generated."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("gradio", reason="gradio is not installed (extra 'ui')")

from PIL import Image

from versatile_diffusion import VersatileDiffusionPipeline
from versatile_diffusion.ui.forms.fields import multiple_of
from versatile_diffusion.ui.forms.outpaint import SIDES, enlarge


@pytest.mark.parametrize("sides", [side for side in SIDES if side != "none"])
def test_the_image_stays_and_the_rest_is_generated(sides: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (32, 64, 3), np.uint8)
    larger = enlarge(Image.fromarray(noise), None, sides, 0.25, 8)
    left, top, right, bottom = SIDES[sides]
    assert larger.image.size == (64 + 16 * (left + right), 32 + 8 * (top + bottom))
    assert larger.mask.shape == larger.image.size[::-1]
    inside = np.s_[8 * top : 8 * top + 32, 16 * left : 16 * left + 64]
    assert (np.asarray(larger.image)[inside] == noise).all()
    outside = np.ones_like(larger.mask)
    outside[inside] = 0
    assert (larger.mask >= outside).all()
    assert larger.mask[inside].sum() < 0.4 * larger.mask[inside].size
    middle = np.s_[8 * top + 16, 16 * left + 32]
    assert larger.mask[middle] == 0


def test_what_is_painted_counts_too() -> None:
    painted = Image.new("L", (16, 8))
    painted.paste(255, (6, 2, 10, 6))
    larger = enlarge(Image.new("RGB", (64, 32)), painted, "right", 0.25, 8)
    assert larger.mask[16, 32] == 1
    assert larger.mask[16, 8] == 0
    with pytest.raises(ValueError, match="side"):
        enlarge(Image.new("RGB", (64, 32)), None, "up", 0.25, 8)


def test_the_model_generates_the_new_part_only(tiny_pipeline: VersatileDiffusionPipeline) -> None:
    image = tiny_pipeline.bank.codecs["image"].fit(Image.new("RGB", (8, 8), "red"))
    larger = enlarge(image, None, "right", 1, multiple_of(tiny_pipeline, "image"))
    width, height = larger.image.size
    (made,) = tiny_pipeline.text_to_image(
        "a cat", start=larger.image, repaint=larger.mask, width=width, height=height, num_inference_steps=2, seed=0
    ).images
    assert made.size == (width, height)
    before, after = (np.asarray(one, np.int16) for one in (larger.image, made))
    moved = np.abs(after - before).mean(axis=(0, 2))
    assert moved[: image.width // 2].max() < moved[image.width :].max()
