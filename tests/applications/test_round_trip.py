"""Editing pictures through words: laws of the arithmetic, and edits by a pipeline."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

from versatile_diffusion import Condition, VersatileDiffusionPipeline
from versatile_diffusion.applications.blend import Picture, app_contexts
from versatile_diffusion.applications.round_trip import REDUCED, describe, edit, steer
from versatile_diffusion.diffuser.context import Context

FEW = {"num_inference_steps": 2, "guidance_scale": 2.0}
PASS = FEW | {"captioning": FEW}


def test_steered_latents_lose_a_direction_and_gain_another() -> None:
    latent, remove, add = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))
    without = steer(latent, remove=remove)
    assert (without * remove).sum(-1).abs().max() < 1e-5
    torch.testing.assert_close(steer(without, remove=remove), without)
    torch.testing.assert_close(steer(latent, remove, add), without + add)
    assert torch.equal(steer(latent), latent)
    assert torch.equal(steer(latent, remove=torch.zeros(1, 8)), latent), "nothing lies along nothing"


def test_every_stage(tiny_pipeline: VersatileDiffusionPipeline, picture: Image.Image) -> None:
    result = edit(tiny_pipeline, picture, remove="red", add="a blue cat", seed=4, num_outputs=2, **PASS)
    captions = describe(tiny_pipeline, picture, seed=4, num_outputs=2, **FEW)
    assert result.before is not None
    assert result.before.texts == captions.texts
    codec = tiny_pipeline.bank.codecs["text"]
    wanted = steer(captions.latents, codec.encode(["red"]), codec.encode(["a blue cat"]))
    assert torch.equal(result.latents, wanted)
    assert list(result.after) == codec.decode(wanted)
    assert len(result) == len(result.picture.images) == 2
    assert result.picture.settings["seeds"] == [4, 5]
    by_hand = [
        Condition("image", picture, weight=0.33, focus=REDUCED),
        Condition("text", list(result.after), weight=0.335),
        Condition("text", "a blue cat", weight=0.335),
    ]
    again = tiny_pipeline.generate("image", by_hand, mixing="join", seed=[4, 5], **FEW)
    assert torch.equal(again.latents, result.picture.latents)
    replayed = tiny_pipeline.replay(result.picture.settings, lambda record: picture)
    assert torch.equal(replayed.latents, result.picture.latents)


def test_an_item_of_an_edit_is_the_same_alone(tiny_pipeline: VersatileDiffusionPipeline, picture: Image.Image) -> None:
    both = edit(tiny_pipeline, picture, add="house", seed=4, num_outputs=2, **PASS)
    alone = edit(tiny_pipeline, picture, add="house", seed=5, **PASS)
    assert both.after[1] == alone.after[0]
    torch.testing.assert_close(both.picture.latents[1], alone.picture.latents[0], atol=1e-4, rtol=1e-4)


def test_own_words(tiny_pipeline: VersatileDiffusionPipeline, picture: Image.Image) -> None:
    result = edit(tiny_pipeline, picture, caption="a green pear", image_weight=0.5, focus=None, seed=1, **FEW)
    assert (result.before, result.after, result.latents) == (None, ("a green pear",), None)
    plain = tiny_pipeline.dual_guided("a green pear", picture, 0.5, seed=1, **FEW)
    torch.testing.assert_close(result.picture.latents, plain.latents, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "nothing to edit"),
        ({"caption": "a", "add": "b"}, "not both"),
        ({"add": "b", "image_weight": 1.5}, "image_weight is 1.5"),
    ],
)
def test_what_is_refused(tiny_pipeline: VersatileDiffusionPipeline, picture: Image.Image, arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        edit(tiny_pipeline, picture, **arguments)


def test_contexts_of_the_app() -> None:
    text, image = torch.randn(1, 5, 8), torch.randn(1, 9, 8)
    with pytest.raises(ValueError, match="text_strength is 2"):
        app_contexts(text, [Picture(image)], 2)
    with pytest.raises(ValueError, match="no context"):
        app_contexts(None, [])
    given = {strength: app_contexts(text, [Picture(image)], strength) for strength in (0, 0.25, 1.0, 1)}
    assert [(c.stream, c.weight) for c in given[0]] == [("image", 1)]  # as the app does: a text of no strength goes,
    assert [(c.stream, c.weight) for c in given[0.25]] == [("text", 0.25), ("image", 0.75)]
    assert [(c.stream, c.weight) for c in given[1]] == [("text", 1), ("image", 0)]  # and pictures of no share stay


@torch.no_grad()
def test_pictures_of_no_share_change_nothing(tiny_pipeline: VersatileDiffusionPipeline, picture: Image.Image) -> None:
    unet, latent = tiny_pipeline.unet, torch.randn(1, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    text, image = tiny_pipeline.encode_context(["a cat"]), tiny_pipeline.encode_context([picture])
    both = app_contexts(text, [Picture(image)], 1)
    alone = unet(latent, 500, [Context("text", text)], data="image")
    assert torch.equal(unet(latent, 500, both, data="image"), alone)
    assert torch.equal(unet(latent, 500, unet.project(both), data="image"), alone)
    options = {"num_inference_steps": 2, "seed": 0, "guidance_scale": 3.0}
    one = {1: tiny_pipeline.text_to_image("a cat", **options), 0: tiny_pipeline.image_variation(picture, **options)}
    for strength, same in one.items():
        assert torch.equal(tiny_pipeline.dual_guided("a cat", picture, strength, **options).latents, same.latents)
