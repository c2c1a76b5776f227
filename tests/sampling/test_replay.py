"""Settings hold all that is needed to make an output again, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from versatile_diffusion import Condition, VersatileDiffusionPipeline
from versatile_diffusion.applications.again import replay

FAST: dict[str, Any] = {"num_inference_steps": 3}


def through_json(settings: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(settings, allow_nan=False))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"eta": 0.5, "guidance_scale": 3, "style": "noto", "negative_prompt": "a cat"},
        {"scheduler": "unipc", "num_images_per_prompt": 2},
    ],
)
def test_a_batch_again(tiny_pipeline: Any, options: dict[str, Any]) -> None:
    made = tiny_pipeline.text_to_image(["a red apple", "a dog"], **FAST, **options)  # a fresh seed
    again = tiny_pipeline.replay(through_json(made.settings))
    assert torch.equal(again.latents, made.latents)
    assert again.settings == made.settings


def test_an_item_again(tiny_pipeline: Any) -> None:
    item = tiny_pipeline.text_to_image(["a red apple", "a dog"], num_images_per_prompt=2, **FAST)[2]
    again = tiny_pipeline.replay(through_json(item.settings))
    assert torch.equal(again.latents, item.latents)
    assert np.array_equal(np.asarray(again.images[0]), np.asarray(item.images[0]))
    assert again.settings == item.settings


def test_sampled_texts_again(tiny_pipeline: Any) -> None:
    made = tiny_pipeline.text_variation("a red apple", num_outputs=3, temperature=0.7, top_k=20, top_p=0.9, **FAST)
    assert tiny_pipeline.replay(through_json(made.settings)).texts == made.texts


def test_mixed_conditions_again(tiny_pipeline: Any, picture: Image.Image, tmp_path: Path) -> None:
    """A file is read again where the settings name it; a picture or tokens from memory have to be handed back."""
    file = tmp_path / "picture.png"
    picture.save(file)
    tokens = torch.randn(5, 192, generator=torch.Generator().manual_seed(0))
    conditions = [Condition("image", str(file), weight=0.4), Condition("text", tokens=tokens, weight=0.6)]
    made = tiny_pipeline.generate("image", conditions, mixing="layer", layer_seed=2, **FAST)
    settings = through_json(made.settings)

    def resolve(record: dict[str, Any]) -> Any:
        return record.get("file", tokens)

    assert torch.equal(tiny_pipeline.replay(settings, resolve).latents, made.latents)
    with pytest.raises(ValueError, match="must be resolved"):
        tiny_pipeline.replay(settings)


def test_latents_to_begin_from_again(tiny_pipeline: Any, picture: Image.Image) -> None:
    latent = tiny_pipeline.encode_latent(picture)
    made = tiny_pipeline.text_to_image("a dog", init_latent=latent, strength=0.6, **FAST)
    again = tiny_pipeline.replay(through_json(made.settings), lambda record: latent)
    assert torch.equal(again.latents, made.latents)


def test_masks_and_starts_again(tiny_pipeline: Any, picture: Image.Image) -> None:
    mask = np.eye(20, 24, dtype=np.uint8) * 255
    made = tiny_pipeline.image_variation(picture, mask=mask, start=picture, fidelity=0.34, **FAST)

    def resolve(record: dict[str, Any]) -> Any:
        return mask if record["shape"] == [20, 24] else picture

    assert torch.equal(tiny_pipeline.replay(through_json(made.settings), resolve).latents, made.latents)


def test_a_changed_file_is_noticed(tiny_pipeline: Any, picture: Image.Image, tmp_path: Path) -> None:
    file = tmp_path / "picture.png"
    picture.save(file)
    settings = tiny_pipeline.image_to_text(file, **FAST).settings
    assert tiny_pipeline.replay(settings).settings == settings
    Image.new("RGB", (24, 20)).save(file)
    with pytest.raises(ValueError, match=r"picture\.png has changed"):
        tiny_pipeline.replay(settings)


def test_another_model_is_noticed(tiny_pipeline: Any) -> None:
    from tiny import build_tiny_pipeline

    settings = tiny_pipeline.text_to_image("a dog", **FAST).settings
    other: VersatileDiffusionPipeline = build_tiny_pipeline()
    assert torch.equal(other.replay(settings).latents, tiny_pipeline.replay(settings).latents)
    next(other.unet.parameters()).data.add_(1e-3)
    with pytest.raises(ValueError, match="other weights"):
        other.replay(settings)


DAMAGES: dict[str, tuple[dict[str, Any], str]] = {
    "no such application": ({"application": {"name": "joined"}}, "'joined'; did you mean 'joint'"),
    "application": ({"application": 3}, "unknown application 3"),
    "no such item": ({"index": 5}, "item 5; there are 0 to 0"),
    "item": ({"index": 1e300}, "item 1e[+]300"),
    "maker": ({"model": None}, "which model"),
    "seed": ({"seeds": [True]}, "whole numbers from 0"),
    "latents": ({"latents": [[]]}, "latents are"),
    "negative prompt": ({"negative_prompt": 3}, "negative_prompt is 3; it must be a text"),
    "no such modality": ({"data": "smell"}, "unknown modality 'smell'; allowed"),
    "modality": ({"data": []}, "settings are damaged"),
    "conditions": ({"conditions": ["a dog"]}, "settings are damaged"),
}


def test_damaged_settings(tiny_pipeline: Any) -> None:
    settings = tiny_pipeline.text_to_image("a dog", num_inference_steps=1).settings
    with pytest.raises(ValueError, match="lack seeds"):
        tiny_pipeline.replay({name: value for name, value in settings.items() if name != "seeds"})
    for other, message in DAMAGES.values():
        with pytest.raises(ValueError, match=message):
            replay(tiny_pipeline, settings | other)
