"""What may be asked, and how far it is."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from versatile_diffusion import VersatileDiffusionPipeline
from versatile_diffusion.flow import Condition
from versatile_diffusion.ui.queue.jobs import Ask, StudioJob, StudioLimits

QUICK = {"num_inference_steps": 2, "num_outputs": 2}


def ask(text: str, seed: int, **arguments: object) -> Ask:
    return Ask("image", (Condition("text", text),), {**QUICK, "seed": seed, **arguments})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("num_outputs", 17),
        ("num_inference_steps", 201),
        ("width", 2048),
        ("height", 4096),
        ("candidates", 17),
        ("max_length", 100_000),
        ("num_inference_steps", math.nan),
        ("num_inference_steps", math.inf),
        ("num_outputs", "many"),
        ("width", True),
    ],
)
def test_more_than_is_allowed(tiny_pipeline: VersatileDiffusionPipeline, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=r"this studio allows up to \d+"):
        ask("a cat", 1, **{name: value}).check(StudioLimits(), tiny_pipeline)


def test_limits_are_of_all_together_and_of_applications_too(tiny_pipeline: VersatileDiffusionPipeline) -> None:
    texts = Condition("text", ["a cat"] * 5)
    for many in (
        Ask("image", (texts,), {"num_outputs": 4}),
        Ask("image", (Condition("text", tokens=torch.zeros(5, 3, 8)),), {"num_outputs": 4}),
        Ask("image", (Condition("text", "a"),), {"num_outputs": 4, "candidates": 5}, call=print),
    ):
        with pytest.raises(ValueError, match=r"count \(times tries\) is 20; this studio allows up to 16"):
            many.check(StudioLimits(), tiny_pipeline)


def test_the_steps_of_the_model_itself_count(tiny_pipeline: VersatileDiffusionPipeline) -> None:
    with pytest.raises(ValueError, match="steps is 50; this studio allows up to 49"):
        Ask("image", (Condition("text", "a"),), {}).check(StudioLimits(steps=49), tiny_pipeline)


def test_what_cannot_be_is_refused_at_once(tiny_pipeline: VersatileDiffusionPipeline) -> None:
    with pytest.raises(ValueError, match="guidance_scale"):
        ask("a cat", 1, guidance_scale=-1.0).check(StudioLimits(), tiny_pipeline)


def test_how_far_a_job_is() -> None:
    job = StudioJob("ada", "blend", (ask("a cat", 1), ask("a dog", 1)))
    assert (job.share, job.left) == (0.0, None)
    job.told(step=1, steps=2, begun=1e-9)
    assert job.share == 0.25
    assert job.left is not None
    assert job.version == 1
