"""CLIP's context encoders against the original's numbers, and their names at full size."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from accelerate import init_empty_weights
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from tests.parity.conftest import read_json, relative
from versatile_diffusion.interop.official import build_clip
from versatile_diffusion.interop.read.clip import CLIPContexts
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.modalities.encoders.clip import CLIPImageContext, CLIPTextContext

SINGLE_CALL = 2e-5
# openai/clip-vit-large-patch14
TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "projection_dim": 768}
VISION = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
    "projection_dim": 768,
}


@pytest.fixture(scope="module")
def vectors(reference: Path) -> dict[str, Tensor]:
    return load_file(reference / "clip" / "clip.safetensors")


@pytest.fixture(scope="module")
def clip(reference: Path) -> CLIPContexts:
    folder = reference / "clip"
    return build_clip(read_json(folder / "config.json"), load_file(folder / "weights.safetensors"))


@pytest.fixture(scope="module")
def pictures(vectors: dict[str, Tensor]) -> list[Image.Image]:
    return [Image.fromarray(picture.permute(1, 2, 0).numpy()) for picture in vectors["image.rgb_u8"]]


@torch.no_grad()
def test_text(clip, vectors):
    out = clip.text.model(input_ids=vectors["text.ids"])
    assert relative(out.last_hidden_state, vectors["text.last_hidden_state"]) < SINGLE_CALL
    assert relative(out.text_embeds, vectors["text.pooled_projected"]) < SINGLE_CALL
    assert relative(clip.text_context(vectors["text.ids"]), vectors["text.context"]) < SINGLE_CALL


def test_preprocessing(clip, vectors, pictures):
    """Golden: the pixels must stay what they are whatever transformers does."""
    assert relative(clip.image.preprocess(pictures), vectors["image.pixel_values"]) < 1e-5


def test_image(clip, vectors, pictures):
    assert relative(clip.image_context(vectors["image.pixel_values"]), vectors["image.context"]) < SINGLE_CALL
    assert relative(clip.image.encode(pictures), vectors["image.context"]) < SINGLE_CALL


@pytest.mark.parametrize("name", ["black", "grey"])
def test_blank_pictures(clip, vectors, name):
    blank = MODALITIES["image"].blanks[name]
    assert relative(clip.image.encode([blank]), vectors[f"image.context_{name}"]) < SINGLE_CALL


def test_masks(clip, vectors):
    pixels, mask = vectors["image.pixel_values"], vectors["mask.mask"]
    assert relative(clip.image.token_masks(mask), vectors["mask.token_mask"]) < 1e-5
    assert relative(clip.image_context(pixels, mask), vectors["mask.context"]) < SINGLE_CALL
    nothing = clip.image_context(pixels, torch.zeros_like(mask))
    assert torch.allclose(nothing, vectors["mask.context_all_zero_mask"], atol=1e-5)
    everything = clip.image_context(pixels, torch.ones_like(mask))
    assert relative(everything, vectors["image.context"]) < SINGLE_CALL


def test_masks_beside_pictures(clip, vectors, pictures):
    masks = [mask[0].numpy() for mask in vectors["mask.mask"]]
    width, height = pictures[0].size
    rows, columns = masks[0].shape
    if abs(rows - columns * height / width) <= 1:
        pytest.skip("these masks are shaped like their pictures, and are cropped like them")
    assert relative(clip.image.encode(pictures, masks), vectors["mask.context"]) < SINGLE_CALL


@pytest.mark.parametrize(
    ("kind", "config", "prefix", "beginnings", "count"),
    [
        (CLIPTextContext, TEXT, "ctx.text.model.", ("text_model.", "text_proj"), "clip_text_model+text_projection"),
        (
            CLIPImageContext,
            VISION,
            "ctx.image.model.",
            ("vision_model.", "visual_"),
            "clip_vision_model+visual_projection",
        ),
    ],
)
def test_full_size_names_and_shapes(manifest, kind, config, prefix, beginnings, count):
    with init_empty_weights(include_buffers=False):
        encoder = kind(config)
    entries = {name.removeprefix(prefix): tuple(s) for name, s in manifest["keys"].items() if name.startswith(prefix)}
    expected = {name: shape for name, shape in entries.items() if name.startswith(beginnings)}
    assert {name: tuple(value.shape) for name, value in encoder.model.state_dict().items()} == expected
    assert sum(p.numel() for p in encoder.parameters()) == manifest["parameter_counts"][count]
