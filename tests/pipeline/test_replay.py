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
from versatile_diffusion.pipeline.conditions import GivenCondition

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
    with pytest.raises(ValueError, match="has no recorded file"):
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
    "maker": ({"model": None}, "do not name"),
    "seed": ({"seeds": [True]}, "an int from 0"),
    "latents": ({"latents": [[]]}, "latents are"),
    "negative prompt": ({"negative_prompt": 3}, "negative_prompt is 3; it must be a string"),
    "no such modality": ({"data": "smell"}, "unknown modality 'smell'; allowed"),
    "modality": ({"data": []}, r"unknown modality \[\]; allowed"),
    "conditions": ({"conditions": ["a dog"]}, "settings are damaged"),
}


def test_damaged_settings(tiny_pipeline: Any) -> None:
    settings = tiny_pipeline.text_to_image("a dog", num_inference_steps=1).settings
    with pytest.raises(ValueError, match="lack seeds"):
        tiny_pipeline.replay({name: value for name, value in settings.items() if name != "seeds"})
    for other, message in DAMAGES.values():
        with pytest.raises(ValueError, match=message):
            replay(tiny_pipeline, settings | other)


def test_a_record_from_before_all_bits_of_a_seed_counted_gives_the_image_of_then(tiny_pipeline: Any) -> None:
    """Then the lower 32 bits counted alone, of seeds that were given and of those that were drawn."""
    then = tiny_pipeline.text_to_image(["a cat", "a dog"], seed=[7, 8], num_outputs=1, candidates=2, **FAST)
    record = through_json(then.settings) | {"seeds": [7 + 2**32, 8 + 5 * 2**40]}
    del record["seed_bits"]
    assert torch.equal(tiny_pipeline.replay(record).latents, then.latents)
    assert torch.equal(replay(tiny_pipeline, {**record, "index": 1}).latents, then.latents[1:])


def test_a_record_of_now_keeps_the_whole_seed(tiny_pipeline: Any) -> None:
    made = tiny_pipeline.text_to_image("a cat", seed=7 + 2**32, **FAST)
    assert not torch.equal(made.latents, tiny_pipeline.text_to_image("a cat", seed=7, **FAST).latents)
    again = tiny_pipeline.replay(through_json(made.settings))
    assert torch.equal(again.latents, made.latents)
    assert again.settings == made.settings


@pytest.mark.parametrize(("fidelity", "then"), [(0.1, {}), (0.9, {"fidelity": 1}), (0.5, {"fidelity": 0.5})])
def test_a_record_from_before_a_start_had_a_step_gives_what_it_gave_then(
    tiny_pipeline: Any, fidelity: float, then: dict[str, float]
) -> None:
    """Then the number of its steps was rounded, to none or all."""
    run: dict[str, Any] = {"num_inference_steps": 4, "seed": 0, "guidance_scale": 1}
    start = torch.linspace(-1, 1, 32)
    made = tiny_pipeline.text_variation("a dog", start=start, fidelity=fidelity, **run)
    old = tiny_pipeline.text_variation("a dog", **({"start": start, **then} if then else {}), **run)
    record = through_json(made.settings)
    assert torch.equal(tiny_pipeline.replay(record, lambda _: start).latents, made.latents)
    del record["start_steps"]
    assert torch.equal(tiny_pipeline.replay(record, lambda _: start).latents, old.latents)
    assert torch.equal(made.latents, old.latents) == (fidelity == 0.5)


FAR = [5 + apart for apart in (0, 2**29, 2**32, 2**63)]


def test_all_bits_of_a_layer_seed_count(tiny_pipeline: Any) -> None:
    pair = [Condition("text", "a dog"), Condition("text", "a cat")]
    run: dict[str, Any] = {"mixing": "layer", "num_inference_steps": 4, "guidance_scale": 1, "seed": 0}
    made = [tiny_pipeline.generate("text", pair, layer_seed=seed, **run) for seed in FAR]
    assert len({one.layer_plan for one in made}) == len(FAR)
    for one in made:
        again = tiny_pipeline.replay(through_json(one.settings))
        assert (again.layer_plan, again.settings) == (one.layer_plan, one.settings)
    old = through_json(made[1].settings)
    del old["layer_bits"]  # then the lower 32 bits of 1,000 times the seed counted
    assert tiny_pipeline.replay(old).layer_plan == made[0].layer_plan
    assert tiny_pipeline.replay(tiny_pipeline.replay(old).settings).layer_plan == made[0].layer_plan


def test_our_own_faults_are_not_called_those_of_a_record(tiny_pipeline: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tiny_pipeline.text_variation("a dog", num_inference_steps=1).settings
    for where in ("check", "encode"):
        encoder = type(tiny_pipeline.bank.encoders["text"])
        target = (GivenCondition, "check") if where == "check" else (encoder, "encode")
        with monkeypatch.context() as patch:
            patch.setattr(*target, lambda *_, **__: {}["a name that we mistyped"])
            with pytest.raises(KeyError):
                replay(tiny_pipeline, settings)


@pytest.mark.parametrize("bits", [None, "64", -1, 10**9, [64]])
def test_strange_bits_in_a_record_do_no_harm(tiny_pipeline: Any, bits: Any) -> None:
    made = tiny_pipeline.text_to_image("a cat", seed=7, **FAST)
    assert torch.equal(tiny_pipeline.replay({**made.settings, "seed_bits": bits}).latents, made.latents)
