"""Whole models that take the steps of a run in turn, of ours and of diffusers, from folders."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny import build_tiny_pipeline

from tests.evaluation.test_baselines import blip, image_variations, stable_diffusion  # noqa: F401
from versatile_diffusion import Condition
from versatile_diffusion.evaluation.ensemble import (
    DiffusersMember,
    Ensemble,
    EnsembleSampling,
    OwnMember,
    find_members,
    single_flow,
    turns,
)
from versatile_diffusion.sampling.schedulers import SCHEDULERS

GIVEN = {"text": ["a red apple", "a"], "image": [Image.new("RGB", (24, 24), c) for c in ("red", "blue")]}
HOW = EnsembleSampling(seeds=(3, 4), steps=4, scale=3.0)


def pixels(images: list[Image.Image]) -> np.ndarray:
    return np.stack([np.asarray(image) for image in images])


def test_turns_go_by_the_weights() -> None:
    assert turns([1, 1], 6) == [0, 1, 0, 1, 0, 1]
    assert turns([3, 1], 8).count(0) == 6
    assert turns([0, 2], 3) == [1, 1, 1]
    assert turns([1, 1, 1], 6) == [0, 1, 2, 0, 1, 2]
    for weights in ([0.3, 0.7], [1, 2, 5]):
        order = turns(weights, 40)
        for steps in range(1, 41):
            had = [order[:steps].count(k) for k in range(len(weights))]
            assert all(abs(n - steps * w / sum(weights)) <= 1 for n, w in zip(had, weights, strict=True))


@pytest.fixture(scope="module")
def singles() -> list:
    """The two flows of a whole model, each as a model of its own."""
    pipe = build_tiny_pipeline()
    return [single_flow(pipe, task) for task in ("text-to-image", "image-variation")]


@pytest.fixture(scope="module")
def ensemble(singles) -> Ensemble:
    return Ensemble([OwnMember(pipe, modality) for pipe, modality in zip(singles, ("text", "image"), strict=True)])


def test_a_single_flow_is_that_of_the_whole_model(singles, tiny_pipeline) -> None:
    text, image = singles
    assert [[task.name for task in pipe.tasks()] for pipe in singles] == [["text-to-image"], ["image-variation"]]
    assert sum(p.numel() for p in text.unet.parameters()) < sum(p.numel() for p in tiny_pipeline.unet.parameters())
    options = {"seed": 0, "num_inference_steps": 2}
    assert torch.equal(
        text.text_to_image("a dog", **options).latents, tiny_pipeline.text_to_image("a dog", **options).latents
    )
    one, two = (pipe.image_variation(GIVEN["image"][0], **options).latents for pipe in (image, tiny_pipeline))
    assert torch.equal(one, two)
    with pytest.raises(ValueError, match="does not support image-to-text; it supports: text-to-image"):
        single_flow(text, "image-to-text")


def test_all_steps_by_one_model_are_its_own_run(ensemble, tiny_pipeline) -> None:
    options = {"seed": [3, 4], "num_inference_steps": 4, "guidance_scale": 3.0}
    for modality in GIVEN:
        weights = {name: float(name == modality) for name in GIVEN}
        made, _ = ensemble.make(GIVEN, HOW, weights)
        alone = tiny_pipeline.generate("image", [Condition(modality, GIVEN[modality])], **options).images
        assert np.array_equal(pixels(made), pixels(alone))


def test_steps_are_taken_in_turn(ensemble, tiny_pipeline) -> None:
    """As by hand: the text for the even steps, the image for the odd ones."""
    made, cost = ensemble.make(GIVEN, HOW)
    assert (cost.passes, len(made)) == (8, 2)
    calls = []
    for member in ensemble.members:
        part = member.guided(GIVEN[member.modality], HOW)
        calls.append(part)
    scheduler = ensemble.members[0].scheduler("ddim")
    scheduler.set_timesteps(4)
    latent = torch.stack(
        [torch.randn(ensemble.members[0].shape, generator=torch.Generator().manual_seed(seed)) for seed in HOW.seeds]
    )
    for k, time in enumerate(scheduler.timesteps):
        latent = scheduler.step(calls[k % 2](latent, time.expand(2)), time, latent, return_dict=False)[0]
    by_hand = ensemble.members[0].decode(latent)
    assert np.array_equal(pixels(made), pixels(by_hand))
    again, _ = ensemble.make(GIVEN, HOW)
    assert np.array_equal(pixels(made), pixels(again))
    for modality in GIVEN:
        other, _ = ensemble.make(GIVEN, HOW, {name: float(name == modality) for name in GIVEN})
        assert not np.array_equal(pixels(made), pixels(other))


def test_folders_of_ours_are_found(singles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name, pipe in zip(("words", "looks"), singles, strict=True):
        pipe.save_pretrained(name)
    found = find_members(["looks", "words"])
    assert [(type(one), one.modality) for one in found] == [(OwnMember, "image"), (OwnMember, "text")]
    assert len(Ensemble(found).make(GIVEN, HOW)[0]) == 2
    with pytest.raises(
        ValueError,
        match="words cannot be part of the ensemble: its images are conditioned on text, which is already used",
    ):
        find_members(["words", "words"])


def test_a_model_of_captions_is_no_member(blip) -> None:  # noqa: F811
    with pytest.raises(ValueError, match="cannot be part of the ensemble: it generates no images"):
        find_members([blip])


def test_folders_of_diffusers_are_found(stable_diffusion, image_variations) -> None:  # noqa: F811
    """Stable Diffusion and its image variations, as in the paper: all steps by one are what its pipeline makes."""
    found = find_members([stable_diffusion, image_variations])
    assert [(type(one), one.modality) for one in found] == [(DiffusersMember, "text"), (DiffusersMember, "image")]
    pair = Ensemble(found)
    mixed, _ = pair.make(GIVEN, HOW)
    assert len(mixed) == 2
    for member, name in zip(found, ("prompt", "image"), strict=True):
        made, _ = pair.make(GIVEN, HOW, {one: float(one == member.modality) for one in GIVEN})
        generators = [torch.Generator().manual_seed(seed) for seed in HOW.seeds]
        options = {"num_inference_steps": 4, "guidance_scale": 3.0, "generator": generators}
        alone = member.pipe(**{name: GIVEN[member.modality]}, **options).images  # type: ignore[attr-defined]
        assert np.abs(pixels(made).astype(int) - pixels(alone)).max() <= 1
        assert not np.array_equal(pixels(mixed), pixels(made))


def test_models_that_do_not_go_together_are_refused(singles, ensemble, stable_diffusion) -> None:  # noqa: F811
    with pytest.raises(ValueError, match="needs two or more models; got 1"):
        Ensemble(ensemble.members[:1])
    theirs = find_members([stable_diffusion])
    with pytest.raises(ValueError, match="must have equal latent shapes; got"):
        Ensemble([ensemble.members[1], *theirs])
    pipe = single_flow(build_tiny_pipeline(), "image-variation")
    pipe.scheduler = SCHEDULERS["ddim"](prediction_type="v_prediction")
    with pytest.raises(ValueError, match="must have the same noise schedule"):
        Ensemble([ensemble.members[0], OwnMember(pipe, "image")])


def test_a_codec_of_its_own_is_said(ensemble) -> None:
    pipe = build_tiny_pipeline()
    with torch.no_grad():
        next(pipe.bank.codecs["image"].parameters()).add_(0.5)
    with pytest.warns(UserWarning, match="different image codecs; using the first one to decode"):
        made, _ = Ensemble([ensemble.members[0], OwnMember(pipe, "image")]).make(GIVEN, replace(HOW, steps=1))
    assert len(made) == 2
