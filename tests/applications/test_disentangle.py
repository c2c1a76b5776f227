"""Disentanglement of pictures: laws of recombination, and strips from a pipeline."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from versatile_diffusion import Condition, VersatileDiffusionPipeline
from versatile_diffusion.applications.disentangle import levels, recombine, restyle, strip
from versatile_diffusion.sampling.focus import CONVENTIONS, Focus, parts

FEW = {"num_inference_steps": 2, "guidance_scale": 2.0}


def random_tokens(seed: int) -> torch.Tensor:
    return torch.randn(2, 33, 24, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_recombined_with_itself(convention: str) -> None:
    tokens = random_tokens(0)
    torch.testing.assert_close(recombine(tokens, tokens, 2, convention), tokens)


def test_recombined_parts_come_from_both() -> None:
    style, content = random_tokens(0), random_tokens(1)
    both = recombine(style, content, 2)
    assert torch.equal(both[:, 0], content[:, 0])
    keep = parts(content, Focus(-2, components=1000)).kept
    torch.testing.assert_close(both - keep, recombine(style, torch.zeros_like(content), 2), atol=1e-5, rtol=1e-4)
    assert torch.linalg.matrix_rank((both - keep)[0, 1:].double(), rtol=1e-5) == 2
    torch.testing.assert_close(recombine(style, content, 1000)[:, 1:].mean(-1), content[:, 1:].mean(-1))


def test_recombination_refuses() -> None:
    tokens = random_tokens(0)
    with pytest.raises(ValueError, match="from 1 to 10000"):
        recombine(tokens, tokens, 0)
    with pytest.raises(ValueError, match="unknown convention"):
        recombine(tokens, tokens, 2, "magic")


def test_levels_are_spread_evenly() -> None:
    assert [focus.level for focus in levels()] == [-2, -1, 0, 1, 2]
    assert [focus.level for focus in levels("2023", 3, drop_global=True)] == [0, 0.5, 1]
    with pytest.raises(ValueError, match="levels of a strip is 1; it must be a whole number from 2"):
        levels(count=1)
    with pytest.raises(ValueError, match="allowed levels"):
        levels("paper", 4)


def test_strip(tiny_pipeline: VersatileDiffusionPipeline, picture: Image.Image) -> None:
    steps = strip(tiny_pipeline, picture, seed=3, num_outputs=2, **FEW)
    assert [step.focus.level for step in steps] == [-2, -1, 0, 1, 2]
    assert {tuple(step.output.settings["seeds"]) for step in steps} == {(3, 4)}
    plain = tiny_pipeline.image_variation(picture, seed=3, num_outputs=2, **FEW)
    assert torch.equal(steps[2].output.latents, plain.latents), "level 0 is the plain variation"
    distinct = {steps[place].output.latents.numpy().tobytes() for place in (0, 1, 2, 4)}
    assert len(distinct) == 4, "all but level 1, which keeps more components than this model's pictures have"
    focus = Focus(-1)
    one = tiny_pipeline.generate("image", [Condition("image", picture, focus=focus)], seed=3, num_outputs=2, **FEW)
    assert torch.equal(one.latents, steps[1].output.latents)


@pytest.mark.parametrize(
    "focus", [Focus(-1, drop_global=True, on_null=True), Focus(0.8, "2023"), Focus(2, "pca")], ids=str
)
def test_a_focus_can_be_replayed(tiny_pipeline: VersatileDiffusionPipeline, picture: Image.Image, focus: Focus) -> None:
    made = tiny_pipeline.generate("image", [Condition("image", picture, focus=focus)], seed=0, null="2022", **FEW)
    again = tiny_pipeline.replay(made.settings, lambda record: picture)
    assert torch.equal(made.latents, again.latents)


def test_restyled(tiny_pipeline: VersatileDiffusionPipeline, picture: Image.Image) -> None:
    other = Image.fromarray(255 - np.asarray(picture))
    own = restyle(tiny_pipeline, picture, picture, seed=0, **FEW)
    plain = tiny_pipeline.image_variation(picture, seed=0, **FEW)
    torch.testing.assert_close(own.latents, plain.latents, atol=1e-3, rtol=1e-3)
    changed = restyle(tiny_pipeline, other, picture, seed=0, **FEW)
    assert (changed.latents - plain.latents).abs().max() > 1e-2
