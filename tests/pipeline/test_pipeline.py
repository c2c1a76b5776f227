"""The pipeline by its laws, on a model of random weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from versatile_diffusion import Condition, VersatileDiffusionPipeline
from versatile_diffusion.pipeline.output import Output
from versatile_diffusion.tasks import TASKS

FAST: dict[str, Any] = {"num_inference_steps": 3, "guidance_scale": 2.0}


def same(a: Output, b: Output) -> bool:
    """Equal up to rounding, which may differ between batches of different sizes."""
    return torch.allclose(a.latents, b.latents, atol=1e-3 * float(b.latents.abs().max()))


def near(a: Image.Image, b: Image.Image) -> bool:
    return int(np.abs(np.asarray(a, dtype=int) - np.asarray(b, dtype=int)).max()) <= 1


@pytest.mark.parametrize("options", [{}, {"eta": 0.7}, {"scheduler": "dpm++"}, {"scheduler": "unipc"}])
def test_item_k_of_a_batch_is_item_k_alone(tiny_pipeline: Any, options: dict) -> None:
    batch = tiny_pipeline.text_to_image(["a red apple", "a cat"], num_images_per_prompt=2, seed=5, **FAST, **options)
    assert len(batch.images) == 4
    for k, item in enumerate(batch):
        prompt = ["a red apple", "a cat"][k // 2]
        alone = tiny_pipeline.text_to_image(prompt, seed=5 + k, **FAST, **options)
        assert same(item, alone)
        assert near(item.images[0], alone.images[0])
        assert item.settings["seed"] == alone.settings["seeds"][0] == 5 + k
        assert item.settings["prompt"] == prompt
    assert not same(batch[0], batch[1])


def test_texts_do_not_depend_on_their_batch(tiny_pipeline: Any, picture: Image.Image) -> None:
    """Texts are sampled, so each item has its own numbers there too."""
    batch = tiny_pipeline.image_to_text(picture, num_outputs=3, seed=1, top_k=5, **FAST)
    alone = [tiny_pipeline.image_to_text(picture, seed=1 + k, top_k=5, **FAST).texts[0] for k in range(3)]
    assert batch.texts == alone
    assert len(set(alone)) > 1


def test_layer_mixing_does_not_depend_on_the_batch(tiny_pipeline: Any, picture: Image.Image) -> None:
    options = {"prompt": "a cat", "image": picture, "mixing": "layer", "layer_seed": 3, **FAST}
    batch = tiny_pipeline.dual_guided(num_images_per_prompt=2, seed=8, **options)
    assert same(batch[1], tiny_pipeline.dual_guided(seed=9, **options))


def test_every_task_is_generate(tiny_pipeline: Any, picture: Image.Image) -> None:
    text, image = Condition("text", "a dog"), Condition("image", picture)
    dual = [Condition("text", "a dog", weight=0.3), Condition("image", picture, weight=0.7)]
    pairs = [
        (tiny_pipeline.text_to_image("a dog", seed=0, **FAST), "image", [text], "text-to-image"),
        (tiny_pipeline.image_variation(picture, seed=0, **FAST), "image", [image], "image-variation"),
        (tiny_pipeline.image_to_text(picture, seed=0, **FAST), "text", [image], "image-to-text"),
        (tiny_pipeline.text_variation("a dog", seed=0, **FAST), "text", [text], "text-variation"),
        (tiny_pipeline.dual_guided("a dog", picture, 0.3, seed=0, **FAST), "image", dual, "dual-guided"),
    ]
    for named, data, conditions, task in pairs:
        general = tiny_pipeline.generate(data, conditions, seed=0, **FAST)
        assert torch.equal(named.latents, general.latents)
        assert named.settings == general.settings
        assert named.settings["task"] == task
    assert len({named.latents.sum().item() for named, *_ in pairs}) == len(pairs)


@pytest.mark.parametrize("mixing", ["attention", "layer", "model"])
def test_one_hot_conditions_are_the_single_one(tiny_pipeline: Any, picture: Image.Image, mixing: str) -> None:
    dual = tiny_pipeline.dual_guided("a dog", picture, 1.0, mixing=mixing, seed=0, **FAST)
    assert torch.equal(dual.latents, tiny_pipeline.text_to_image("a dog", seed=0, **FAST).latents)
    dual = tiny_pipeline.dual_guided("a dog", picture, 0.0, mixing=mixing, seed=0, **FAST)
    assert torch.equal(dual.latents, tiny_pipeline.image_variation(picture, seed=0, **FAST).latents)


def test_texts_may_have_several_contexts(tiny_pipeline: Any, picture: Image.Image) -> None:
    conditions = [Condition("text", "a dog"), Condition("image", picture)]
    assert len(tiny_pipeline.generate("text", conditions, seed=0, **FAST).texts) == 1


def test_tokens_stand_for_their_value(tiny_pipeline: Any, picture: Image.Image) -> None:
    """Users bring context tokens from elsewhere, (L, D) or with a batch axis, and latents too."""
    tokens = tiny_pipeline.bank.encoders["image"].encode([picture])
    plain = tiny_pipeline.image_variation(picture, seed=0, **FAST)
    for given in (tokens, tokens[0]):
        fed = tiny_pipeline.generate("image", [Condition("image", tokens=given)], seed=0, **FAST)
        assert torch.equal(fed.latents, plain.latents)
    pair = tiny_pipeline.generate("image", [Condition("image", tokens=torch.cat([tokens, 2 * tokens]))], seed=0, **FAST)
    assert len(pair) == 2
    assert same(pair[0], plain)


def test_latents_in_place_of_noise(tiny_pipeline: Any) -> None:
    noise = torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    given = tiny_pipeline.text_to_image("a dog", latents=noise, seed=99, **FAST)
    assert torch.equal(given.latents, tiny_pipeline.text_to_image("a dog", seed=0, **FAST).latents)


def test_masks_reach_the_encoder(tiny_pipeline: Any, picture: Image.Image) -> None:
    whole = tiny_pipeline.image_variation(picture, seed=0, **FAST)
    half = np.zeros((20, 24), np.uint8)
    half[:, :12] = 255
    masked = tiny_pipeline.image_variation(picture, mask=half, seed=0, **FAST)
    white = tiny_pipeline.image_variation(picture, mask=np.full((20, 24), 255, np.uint8), seed=0, **FAST)
    assert not same(masked, whole)
    assert same(white, whole)


def test_null_contexts_follow_the_task_table(tiny_pipeline: Any, picture: Image.Image, monkeypatch: Any) -> None:
    asked: list[tuple[str, Any]] = []
    for name, encoder in tiny_pipeline.bank.encoders.items():
        inner = encoder.encode

        def encode(values: Any, masks: Any = None, name: str = name, inner: Any = inner) -> torch.Tensor:
            asked.append((name, values[0] if isinstance(values[0], str) else values[0].getextrema()))
            return inner(values, masks)

        monkeypatch.setattr(encoder, "encode", encode)
    black, text, image = ("image", ((0, 0),) * 3), Condition("text", "a dog"), Condition("image", picture)
    seen = ("image", picture.getextrema())
    expected = [
        ("image", [text], [("text", "a dog"), ("text", "")]),
        ("image", [image], [seen]),  # zeros
        ("text", [image], [seen, black]),
        ("text", [text], [("text", "a dog"), ("text", "")]),
        ("image", [text, image], [("text", "a dog"), ("text", ""), seen]),
        ("text", [text, image], [("text", "a dog"), ("text", ""), seen, black]),
    ]
    for data, conditions, calls in expected:
        asked.clear()
        tiny_pipeline.generate(data, conditions, **FAST)
        assert asked == calls


def test_negative_prompt_replaces_the_empty_text(tiny_pipeline: Any) -> None:
    plain = tiny_pipeline.text_to_image("a dog", seed=0, **FAST)
    empty = tiny_pipeline.text_to_image("a dog", negative_prompt="", seed=0, **FAST)
    other = tiny_pipeline.text_to_image("a dog", negative_prompt="a cat", seed=0, **FAST)
    assert torch.equal(empty.latents, plain.latents)
    assert not same(other, plain)
    pair = tiny_pipeline.text_to_image(["a dog", "a dog"], negative_prompt=["", "a cat"], seed=[0, 0], **FAST)
    assert same(pair[0], plain)
    assert same(pair[1], other)
    itself = tiny_pipeline.text_to_image("a dog", negative_prompt="a dog", seed=0, **FAST)
    unguided = tiny_pipeline.text_to_image("a dog", seed=0, num_inference_steps=3, guidance_scale=1)
    assert same(itself, unguided)


def test_style_adds_its_phrase(tiny_pipeline: Any) -> None:
    styled = tiny_pipeline.text_to_image("a dog", style="noto", seed=0, **FAST)
    written = tiny_pipeline.text_to_image("a dog, noto style", seed=0, **FAST)
    assert torch.equal(styled.latents, written.latents)
    assert styled.prompts == ("a dog, noto style",)


def test_start_and_fidelity(tiny_pipeline: Any, picture: Image.Image) -> None:
    latent = tiny_pipeline.bank.codecs["image"].encode([picture])
    kept = tiny_pipeline.image_variation(picture, start=picture, fidelity=1.0, seed=0, **FAST)
    assert torch.equal(kept.latents, latent)
    distances = [
        float(
            (tiny_pipeline.image_variation(picture, start=latent, fidelity=f, seed=0, **FAST).latents - latent).norm()
        )
        for f in (0.34, 0.67)
    ]
    assert distances[0] > distances[1] > 0


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_neither_a_start_nor_what_guides_is_left_out_unsaid(tiny_pipeline: Any, steps: int) -> None:
    """However little or much of a start is kept: it stands for a step, and a step is taken."""
    run: dict[str, Any] = {"num_inference_steps": steps, "seed": 0, "output_type": "latent", "guidance_scale": 1}
    start = torch.linspace(-1, 1, 32)
    alone = tiny_pipeline.text_variation("a dog", **run).latents
    low, half, high = (
        tiny_pipeline.text_variation("a dog", start=start, fidelity=f, **run) for f in (1e-6, 0.5, 0.999)
    )
    for made in (low, half, high):
        assert not torch.allclose(made.latents, alone)
        assert not torch.allclose(made.latents, start[None])
        assert made.cost.passes == max(steps, 2) - made.settings["start_steps"] >= 1
    assert (low.settings["start_steps"], high.cost.passes) == (1, 1)
    other = tiny_pipeline.text_variation("a cat", start=start, fidelity=0.999, **run).latents
    assert not torch.equal(high.latents, other)
    assert torch.equal(tiny_pipeline.text_variation("a dog", start=start, fidelity=1, **run).latents, start[None])


def test_callback_sees_each_step_and_may_change_it(tiny_pipeline: Any) -> None:
    seen = []

    def watch(pipe: Any, step: int, timestep: int, tensors: dict[str, torch.Tensor]) -> None:
        seen.append((step, timestep, tensors["pred_x0"].shape))

    output = tiny_pipeline.text_to_image("a dog", seed=0, callback_on_step_end=watch, **FAST)
    assert [step for step, *_ in seen] == [0, 1, 2]
    assert all(shape == output.latents.shape for *_, shape in seen)
    zeros = tiny_pipeline.text_to_image(
        "a dog", callback_on_step_end=lambda *a: {"latents": torch.zeros_like(a[3]["latents"])}, **FAST
    )
    assert not zeros.latents.any()


def test_callback_ends_the_run(tiny_pipeline: Any) -> None:
    previews = []

    def stop(pipe: Any, step: int, timestep: int, tensors: dict[str, torch.Tensor]) -> None:
        previews.append(tensors["pred_x0"])
        pipe._interrupt = step == 1

    stopped = tiny_pipeline.text_to_image("a dog", seed=0, callback_on_step_end=stop, **FAST)
    assert len(previews) == 2
    assert torch.equal(stopped.latents, previews[1])
    whole = tiny_pipeline.text_to_image("a dog", seed=0, **FAST)  # the next run is not stopped
    assert not torch.equal(whole.latents, stopped.latents)


def test_output_types(tiny_pipeline: Any) -> None:
    run = {"prompt": ["a dog", "a cat"], "seed": 0, **FAST}
    pictures = tiny_pipeline.text_to_image(**run).images
    array = tiny_pipeline.text_to_image(**run, output_type="np").images
    tensor = tiny_pipeline.text_to_image(**run, output_type="pt").images
    latent = tiny_pipeline.text_to_image(**run, output_type="latent")
    assert array.shape == (2, 16, 16, 3)
    assert np.array_equal((array[1] * 255).round().astype(np.uint8), np.asarray(pictures[1]))
    assert np.array_equal(tensor.numpy().transpose(0, 2, 3, 1), array)
    assert torch.equal(latent.images, latent.latents)


def test_outputs_say_what_they_hold(tiny_pipeline: Any, picture: Image.Image) -> None:
    caption = tiny_pipeline.image_to_text(picture, **FAST)
    assert not hasattr(caption, "images")
    with pytest.raises(IndexError):
        caption[1]
    assert [item.texts for item in caption] == [caption.texts]
    with pytest.raises(IndexError):
        caption[-2]
    assert caption[-1].settings == caption[0].settings


def test_a_generator_gives_the_seeds(tiny_pipeline: Any) -> None:
    first = tiny_pipeline.text_to_image("a dog", generator=torch.Generator().manual_seed(0), **FAST)
    again = tiny_pipeline.text_to_image("a dog", seed=first.settings["seeds"], **FAST)
    assert torch.equal(first.latents, again.latents)


def test_half_precision_runs(tiny_pipeline: Any, tmp_path: Any) -> None:
    tiny_pipeline.save_pretrained(tmp_path)
    half = VersatileDiffusionPipeline.from_pretrained(tmp_path, dtype=torch.bfloat16)
    half.set_progress_bar_config(disable=True)
    full = tiny_pipeline.text_to_image("a dog", seed=0, **FAST)
    rough = half.text_to_image("a dog", seed=0, **FAST)
    assert half.unet.dtype == torch.bfloat16
    assert (full.latents - rough.latents).norm() < 0.2 * full.latents.norm()


def test_tasks_are_told_from_streams() -> None:
    from tiny import build_tiny_pipeline

    basic = build_tiny_pipeline(data=("image",), contexts=("image",))
    assert [task.name for task in basic.tasks()] == ["image-variation"]
    with pytest.raises(ValueError, match="cannot be conditioned on 'text'; it supports: image-variation"):
        basic.text_to_image("a dog")
    with pytest.raises(ValueError, match="cannot generate 'text'; it supports: image-variation"):
        basic.text_variation("a dog")


def test_the_whole_model_does_every_task(tiny_pipeline: Any) -> None:
    assert {task.name for task in tiny_pipeline.tasks()} == {name for name in TASKS if "audio" not in name}


def test_defaults_of_the_model(tiny_pipeline: Any) -> None:
    own = {"text-to-image": {"guidance_scale": 3.0, "num_inference_steps": 2}}
    pipe = VersatileDiffusionPipeline(**tiny_pipeline.components, defaults=own)
    pipe.set_progress_bar_config(disable=True)
    settings = pipe.text_to_image("a dog").settings
    assert (settings["guidance_scale"], settings["num_inference_steps"]) == (3.0, 2)
    assert pipe.text_to_image("a dog", guidance_scale=1).settings["guidance_scale"] == 1
    assert pipe.text_variation("a dog", num_inference_steps=1).settings["guidance_scale"] == 7.5


def test_where_no_task_has_all_contexts_the_gentlest_of_theirs_tells_the_defaults(tiny_pipeline: Any) -> None:
    own = {
        "image-to-text": {"guidance_scale": 2.0, "num_inference_steps": 9},
        "text-variation": {"guidance_scale": 3.0},
    }
    pipe = VersatileDiffusionPipeline(**tiny_pipeline.components, defaults=own)
    conditions = [Condition("text", "a dog"), Condition("image", Image.new("RGB", (9, 9)))]
    both = pipe.request("text", conditions, {})
    assert (both.guidance_scale, both.num_inference_steps) == (2.0, 9)
    assert pipe.request("text", conditions, {"guidance_scale": 5.0}).guidance_scale == 5.0
    assert pipe.request("image", conditions, {}).guidance_scale == TASKS["dual-guided"].guidance_scale


TEXT = [Condition("text", "a dog")]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": "sound"}, "cannot generate 'sound'; it supports: text-to-image"),
        ({"data": "audio"}, r"cannot generate 'audio' \(emoji-speech can\); it supports: text-to-image"),
        ({"conditions": [Condition("sound", 1)]}, "cannot be conditioned on 'sound'"),
        ({"conditions": []}, "at least one condition"),
        ({"conditions": [Condition("text", "a", weight=0)]}, "at least one must be above 0"),
        ({"conditions": [Condition("text", 3)]}, "a text must be a str"),
        ({"conditions": [Condition("image", "no/such/file.png")]}, "no such image file"),
        ({"conditions": [Condition("text", [])]}, "empty list"),
        ({"conditions": [Condition("text", tokens=torch.zeros(3))]}, r"\(L, D\)"),
        (
            {"conditions": [Condition("text", ["a", "b"]), Condition("text", ["a"] * 3)]},
            "give one value each, or one per",
        ),
        ({"num_inference_steps": 0}, "num_inference_steps is 0; it must be a whole number from 1 to 1000"),
        ({"num_inference_steps": 2.5}, "whole number"),
        ({"num_outputs": -1}, "num_outputs is -1"),
        ({"num_outputs": True}, "whole number"),
        ({"guidance_scale": float("nan")}, "guidance_scale is nan"),
        ({"guidance_scale": "7"}, "a number"),
        ({"mixing": "pixels"}, "unknown mixing 'pixels'; allowed: attention, layer, model"),
        ({"scheduler": "euler"}, "unknown scheduler 'euler'; allowed: ddim"),
        ({"scheduler": "unipc", "eta": 0.5}, "adds no noise"),
        ({"eta": 2}, "from 0 to 1"),
        ({"style": "oil"}, "unknown style 'oil'; allowed: noto, fluent"),
        (
            {"style": "noto", "conditions": [Condition("image", Image.new("RGB", (8, 8)))]},
            "style needs a text condition",
        ),
        (
            {"negative_prompt": "x", "conditions": [Condition("image", Image.new("RGB", (8, 8)))]},
            "negative_prompt needs a text condition",
        ),
        ({"negative_prompt": ["a", "b"], "conditions": [Condition("text", ["a"] * 3)]}, "one per prompt"),
        ({"height": 17, "width": 16}, "17"),
        ({"height": 0}, "height is 0"),
        ({"data": "text", "height": 16}, "do not apply"),
        ({"temperature": 1.0}, "temperature: only for texts"),
        ({"data": "text", "top_p": 1.5}, "top_p is 1.5"),
        ({"data": "text", "temperature": -1}, "temperature is -1"),
        ({"latents": torch.zeros(2, 4, 4, 4)}, r"for 1 items they must be \(1, 4, 4, 4\)"),
        ({"fidelity": 0.5}, "start needs fidelity"),
        ({"start": torch.zeros(4, 4, 4)}, "start needs fidelity"),
        ({"start": torch.zeros(3, 3), "fidelity": 0.5}, "init latents are"),
        ({"seed": -3}, "seed is -3"),
        ({"output_type": "jpg"}, "unknown output_type 'jpg'; allowed: pil, np, pt, latent"),
    ],
)
def test_mistakes_are_refused_before_any_work(idle_pipeline: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        idle_pipeline.generate(**{"data": "image", "conditions": TEXT, **options})


def test_strength_of_the_text_is_a_share(tiny_pipeline: Any, picture: Image.Image) -> None:
    with pytest.raises(ValueError, match=r"text_to_image_strength is 1\.5"):
        tiny_pipeline.dual_guided("a dog", picture, 1.5)


def test_unknown_options_are_errors(tiny_pipeline: Any) -> None:
    with pytest.raises(ValueError, match="unknown argument 'steps'; did you mean 'num_inference_steps'"):
        tiny_pipeline.text_to_image("a dog", steps=3)
