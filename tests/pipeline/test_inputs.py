"""Arrays, tensors and embeddings in place of raw values, and images as arrays."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from versatile_diffusion import Condition, Embeddings, load_embeddings, save_embeddings
from versatile_diffusion.applications.disentangle import restyle
from versatile_diffusion.applications.joint import Exchange
from versatile_diffusion.records.embeddings import embeddings_of
from versatile_diffusion.sampling.focus import Focus

FAST: dict[str, Any] = {"num_inference_steps": 1, "seed": 0}
WIDTH = 192  # of the tiny model's tokens


@pytest.fixture
def tokens() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((65, WIDTH)).astype(np.float32)


def same(*outputs: Any) -> bool:
    return all(torch.equal(output.latents, outputs[0].latents) for output in outputs)


def test_arrays_of_tokens_are_tokens_wherever_a_value_goes(tiny_pipeline: Any, tokens: np.ndarray) -> None:
    wanted = tiny_pipeline.image_variation(torch.from_numpy(tokens), **FAST)
    forms: list[Any] = [tokens, tokens[None], tokens.astype(np.float64), [tokens], [torch.from_numpy(tokens)]]
    assert same(wanted, *(tiny_pipeline.image_variation(form, **FAST) for form in forms))
    given = [Condition("image", tokens=tokens), Condition("image", tokens=Embeddings("context", "image", tokens))]
    assert same(wanted, *(tiny_pipeline.generate("image", [one], **FAST) for one in given))
    words = tokens[:25]
    pair = tiny_pipeline.dual_guided(words, tokens, np.float32(0.5), **FAST)
    assert same(pair, tiny_pipeline.dual_guided(torch.from_numpy(words), torch.from_numpy(tokens), **FAST))
    away = [
        Condition("image", tokens, negative=form) for form in (tokens[::-1].copy(), torch.tensor(tokens[::-1].copy()))
    ]
    assert same(*(tiny_pipeline.generate("image", [one], **FAST) for one in away))
    both = tiny_pipeline.image_variation([tokens, torch.from_numpy(tokens)], num_inference_steps=1, seed=[0, 0])
    assert torch.allclose(both.latents, wanted.latents, atol=1e-4)


def test_an_array_that_could_be_tokens_is_no_image(tiny_pipeline: Any, tokens: np.ndarray) -> None:
    for task in (tiny_pipeline.image_variation, tiny_pipeline.encode_context, tiny_pipeline.encode_latent):
        with pytest.raises(ValueError, match="could be context tokens of width 192 or a value of modality 'image'"):
            task(np.abs(tokens) / 10)
    with pytest.raises(ValueError, match=r"context tokens .* given, but a value of modality 'image' is required"):
        tiny_pipeline.encode_context(tokens, "image")
    with pytest.raises(ValueError, match=r"in 0\.\.1; this one ranges from"):
        tiny_pipeline.image_variation(tokens[:, :96], **FAST)
    with pytest.raises(ValueError, match="must hold only tokens"):
        tiny_pipeline.image_variation([tokens, Image.new("RGB", (9, 9))], **FAST)
    with pytest.raises(
        ValueError, match=r"\(64, 192\).* reads tokens|several shapes|must hold only tokens of one shape"
    ):
        tiny_pipeline.image_variation([tokens, tokens[1:]], **FAST)
    with pytest.raises(
        ValueError,
        match=r"tokens of a image condition, or the levels of an image \(64, 192\), are not finite: 12,288 of",
    ):
        tiny_pipeline.image_variation(np.full((64, WIDTH), np.nan), **FAST)
    levels = np.zeros((64, WIDTH), np.uint8)
    assert len(tiny_pipeline.image_variation(levels, **FAST)) == 1


@pytest.mark.parametrize("kind", ["pt", "np"])
def test_own_outputs_go_back_in(tiny_pipeline: Any, kind: str) -> None:
    two = tiny_pipeline.text_to_image(["a cat", "a dog"], num_inference_steps=1, seed=0)
    made = tiny_pipeline.text_to_image(["a cat", "a dog"], num_inference_steps=1, seed=0, output_type=kind).images
    again = [tiny_pipeline.image_variation(images, num_inference_steps=1, seed=3) for images in (two.images, made)]
    assert same(*again)
    assert again[0].settings["conditions"] == again[1].settings["conditions"]
    assert torch.equal(tiny_pipeline.encode_context(made), tiny_pipeline.encode_context(two.images))
    one = made[0] if kind == "np" else made[:1]
    starts = [tiny_pipeline.text_to_image("a", start=s, fidelity=0.5, **FAST) for s in (two.images[0], one, made[0])]
    assert same(*starts)


def test_latents_come_as_arrays(tiny_pipeline: Any) -> None:
    latents = np.random.default_rng(0).standard_normal((1, 4, 4, 4)).astype(np.float32)
    tensor = torch.from_numpy(latents)
    assert same(
        *(tiny_pipeline.text_to_image("a", latents=form, **FAST) for form in (latents, tensor, latents.tolist()))
    )
    assert same(*(tiny_pipeline.text_to_image("a", init_latent=s, strength=0.5, **FAST) for s in (latents[0], tensor)))
    decoded = [tiny_pipeline.decode_latent(form)[0].tobytes() for form in (latents, tensor)]
    assert decoded[0] == decoded[1] == tiny_pipeline.decode_latent(latents[0]).tobytes()
    assert tiny_pipeline.decode_latent(np.zeros(32), "text") == tiny_pipeline.decode_latent(torch.zeros(32))


def test_one_item_of_embeddings_is_one_item(tiny_pipeline: Any, tmp_path: Path, tokens: np.ndarray) -> None:
    one = load_embeddings(save_embeddings(tmp_path / "a.safetensors", tokens, pipe=tiny_pipeline))
    assert (len(one), one.tensor.shape) == (1, (1, 65, WIDTH))
    latent = tiny_pipeline.encode_latent(Image.new("RGB", (16, 16), "red"))
    held = embeddings_of(tiny_pipeline.bank, "latent", "image", latent)
    assert held.tensor.shape == (1, *latent.shape)
    assert len(tiny_pipeline.decode_latent(held)) == 1
    three = Embeddings("context", "image", np.stack([tokens, tokens + 1, tokens + 2]), names=("a", "b", "c"))
    for which in (1, np.int64(1), torch.tensor(1), -2):
        assert (three[which].names, three[which].tensor.shape) == (("b",), (1, 65, WIDTH))
    assert [item.names for item in three] == [("a",), ("b",), ("c",)]
    with pytest.raises(IndexError):
        three[np.int64(3)]
    loose = Embeddings("latent", "image", latent)  # nobody told it how many axes an item has
    with pytest.raises(ValueError, match="they must have 4 axes, the first being the batch"):
        tiny_pipeline.decode_latent(loose)


def test_nothing_that_is_not_finite_goes_in_or_into_a_file(idle_pipeline: Any, tmp_path: Path) -> None:
    pipe, bad = idle_pipeline, np.full((1, 4, 4, 4), np.nan, np.float32)
    away = Condition("image", Image.new("RGB", (9, 9)), negative=np.full((65, WIDTH), -np.inf, np.float32))
    given: dict[str, Any] = {
        "the initial latents": lambda: pipe.text_to_image("a", latents=bad, **FAST),
        "the image init latents": lambda: pipe.text_to_image("a", init_latent=bad, strength=0.5, **FAST),
        "the image latents to decode": lambda: pipe.decode_latent(bad),
        "the text latents to decode": lambda: pipe.decode_latent(np.full(32, np.inf)),
        "the tokens of a text condition": lambda: pipe.text_to_image(np.full((3, WIDTH), np.inf), **FAST),
        "the tokens of a image condition": lambda: pipe.generate("image", [away], **FAST),
        "the image latent embeddings to be saved": lambda: Embeddings("latent", "image", bad).save(tmp_path / "x"),
    }
    for stage, call in given.items():
        with pytest.raises(ValueError, match=f"^{stage}.* are not finite"):
            call()
    assert not list(tmp_path.iterdir())


def test_a_file_with_numbers_that_are_not_finite_is_named(tmp_path: Path) -> None:
    file = save_embeddings(tmp_path / "a.safetensors", torch.zeros(1, 65, WIDTH))
    content = file.read_bytes()
    file.write_bytes(content[:-4] + np.float32(np.nan).tobytes())
    with pytest.raises(ValueError, match=r"the embeddings in .*a\.safetensors are not finite: 1 of"):
        load_embeddings(file)


def test_numbers_of_numpy_and_torch_are_numbers_and_recorded_as_such(tiny_pipeline: Any, picture: Image.Image) -> None:
    condition = Condition("image", picture, None, np.float32(0.5), None, torch.tensor(3), None, Focus(np.int64(1)))
    options: dict[str, Any] = {
        "num_inference_steps": np.int32(2),
        "guidance_scale": np.float16(2),
        "guidance_interval": np.array([0, 1]),
        "guidance_rescale": torch.tensor(0.5),
        "num_outputs": 2.0,
        "height": np.int64(16),
        "width": torch.tensor(16),
        "seed": torch.tensor([3, 2**40]),
        "eta": np.float32(0),
        "rank": np.bool_(False),
        "mixing": "layer",
        "layer_seed": np.uint8(200),
        "init_latent": np.zeros((4, 4, 4), np.float32),
        "strength": np.float32(0.5),
    }
    output = tiny_pipeline.generate("image", [condition, Condition("text", "a cat")], **options)
    plain = {name: one.tolist() if hasattr(one, "tolist") else one for name, one in options.items()}
    again = tiny_pipeline.generate(
        "image",
        [Condition("image", picture, weight=0.5, guidance_scale=3, focus=Focus(1)), Condition("text", "a cat")],
        **{**plain, "init_latent": torch.zeros(4, 4, 4)},
    )
    assert same(output, again)
    for item in output:
        assert json.loads(json.dumps(item.settings)) == item.settings
    assert output[np.int64(1)].settings["seed"] == 2**40
    planned = tiny_pipeline.generate(
        "image",
        [Condition("image", picture), Condition("text", "a")],
        mixing="layer",
        layer_plan=np.array(output.layer_plan[:1]),
        **FAST,
    )
    json.dumps(planned.settings)
    styled = restyle(tiny_pipeline, picture, picture, components=np.int64(2), **FAST)
    json.dumps(styled.settings)
    assert Exchange(np.float32(1), 1, np.int64(2), np.float64(0.5)) == Exchange(1.0, 1.0, 2, 0.5)
    assert tiny_pipeline.decode_latent(torch.zeros(32), seed=np.int64(3), temperature=np.float32(1), top_k=np.int8(2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_inference_steps": True}, "num_inference_steps is True; .* not True or False"),
        ({"num_inference_steps": 2.5}, "num_inference_steps is 2.5; it must be a whole number from 1 to 1000"),
        ({"guidance_scale": np.float32("nan")}, "guidance_scale is nan"),
        ({"guidence_scale": 3}, "unknown argument 'guidence_scale'; did you mean 'guidance_scale'"),
        ({"num_image_per_prompt": 3}, "did you mean 'num_images_per_prompt'"),
        ({"guidance_interval": np.array([0.5, np.nan])}, "guidance_interval is"),
        ({"layer_plan": np.array([0, 1]), "mixing": "layer"}, "layer_plan is .* list of lists"),
    ],
)
def test_what_is_no_number_or_no_argument_is_refused(idle_pipeline: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        idle_pipeline.text_to_image("a", **{**FAST, **options})


def test_regions_come_as_arrays(tiny_pipeline: Any) -> None:
    made = [
        tiny_pipeline.generate("image", [Condition("text", "a", region=box), Condition("text", "a cat")], **FAST)
        for box in ((0.0, 0.0, 0.5, 1.0), np.array([0, 0, 0.5, 1]), torch.tensor([0, 0, 0.5, 1]))
    ]
    assert same(*made)
    json.dumps(made[1].settings)


def test_the_pipeline_itself_can_be_called(tiny_pipeline: Any, picture: Image.Image) -> None:
    assert same(tiny_pipeline("a cat", **FAST), tiny_pipeline.text_to_image("a cat", **FAST))
    assert same(tiny_pipeline(image=picture, **FAST), tiny_pipeline.image_variation(picture, **FAST))
    both = {"prompt": "a cat", "image": picture, **FAST}
    assert same(tiny_pipeline(**both), tiny_pipeline.dual_guided(**both))
    with pytest.raises(ValueError, match="give a prompt, an image or both"):
        tiny_pipeline(num_inference_steps=1)


def test_what_cannot_be_decoded_is_refused_in_words(tiny_pipeline: Any) -> None:
    with pytest.raises(ValueError, match="image latents is empty"):
        tiny_pipeline.decode_latent(np.zeros((0, 4, 4, 4)), "image")
    latent = tiny_pipeline.encode_latent("a cat", "text")
    with pytest.raises(ValueError, match="did you mean 'temperature'"):
        tiny_pipeline.decode_latent(latent, "text", seed=1, tempersature=1)
    assert isinstance(tiny_pipeline.decode_latent(latent, "text", seed=1, temperature=10**30), str)
