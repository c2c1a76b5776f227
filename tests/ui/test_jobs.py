"""Runs that are merged into a batch and divided again, and what may be asked."""

from __future__ import annotations

import numpy as np
import pytest

from versatile_diffusion import VersatileDiffusionPipeline
from versatile_diffusion.flow import Condition
from versatile_diffusion.ui.jobs import Ask, Job, Limits, divided, merged

QUICK = {"num_inference_steps": 2, "num_outputs": 2}


def ask(text: str, seed: int, **arguments: object) -> Ask:
    return Ask("image", (Condition("text", text),), {**QUICK, "seed": seed, **arguments})


def test_a_batch_gives_each_what_it_would_get_alone(tiny_pipeline: VersatileDiffusionPipeline) -> None:
    asks = [ask("a red apple", 3), ask("the blue house and a dog", 70)]
    assert asks[0].kind == asks[1].kind
    conditions, arguments = merged(asks)
    together = divided(tiny_pipeline.generate("image", conditions, **arguments), 2)
    for one, output in zip(asks, together, strict=True):
        alone = tiny_pipeline.generate("image", one.conditions, **one.arguments)
        assert output.settings == alone.settings
        assert output.prompts == alone.prompts
        for mine, other in zip(output.images, alone.images, strict=True):
            assert np.abs(np.asarray(mine, int) - np.asarray(other, int)).max() <= 1


def test_masks_and_pictures_of_a_batch_stay_with_their_owner(
    tiny_pipeline: VersatileDiffusionPipeline, picture
) -> None:  # type: ignore[no-untyped-def]
    mask = np.zeros((20, 24), np.float32)
    mask[:10] = 1
    asks = [
        Ask("text", (Condition("image", picture, mask=given),), {**QUICK, "seed": seed})
        for given, seed in ((mask, 1), (None, 9))
    ]
    conditions, arguments = merged(asks)
    together = divided(tiny_pipeline.generate("text", conditions, **arguments), 2)
    alone = [tiny_pipeline.generate("text", one.conditions, **one.arguments) for one in asks]
    assert [output.settings for output in together] == [output.settings for output in alone]


@pytest.mark.parametrize(
    "other",
    [
        ask("a cat", 1, num_inference_steps=3),
        ask("a cat", 1, style="noto"),
        Ask("image", (Condition("text", "a cat", weight=0.5),), {**QUICK, "seed": 1}),
        Ask("text", (Condition("text", "a cat"),), {**QUICK, "seed": 1}),
        Ask("image", (Condition("text", "a cat", negative="a dog"),), {**QUICK, "seed": 1}),
        Ask("image", (Condition("text", "a cat"),), {**QUICK, "seed": 1, "start": object(), "fidelity": 0.5}),
    ],
)
def test_runs_that_differ_in_more_than_their_values_stay_apart(other: Ask) -> None:
    assert ask("a cat", 1).kind != other.kind


def test_a_run_with_a_start_is_alone_even_beside_its_like() -> None:
    one = Ask("image", (Condition("text", "a cat"),), {**QUICK, "seed": 1, "start": object(), "fidelity": 0.5})
    assert one.kind != one.kind


@pytest.mark.parametrize(
    ("name", "value"), [("num_outputs", 17), ("num_inference_steps", 201), ("width", 2048), ("height", 4096)]
)
def test_more_than_is_allowed(name: str, value: int) -> None:
    with pytest.raises(ValueError, match=r"this studio allows up to \d+"):
        ask("a cat", 1, **{name: value}).check(Limits())


def test_what_cannot_be_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="guidance_scale"):
        ask("a cat", 1, guidance_scale=-1.0).check(Limits())


def test_how_far_a_job_is() -> None:
    job = Job("ada", "blend", (ask("a cat", 1), ask("a dog", 1)))
    assert (job.share, job.left) == (0.0, None)
    job.told(step=1, steps=2, begun=1e-9)
    assert job.share == 0.25
    assert job.left is not None
    assert job.version == 1
