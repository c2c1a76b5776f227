"""Ending a run early touches that run alone."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from versatile_diffusion.applications.joint import joint

FAST: dict[str, Any] = {"num_inference_steps": 6, "guidance_scale": 1.0, "seed": 0, "output": "latent"}


def stop(pipe: Any, step: int, _timestep: int, _tensors: dict[str, Any]) -> None:
    pipe._interrupt = step == 1


def test_a_run_of_another_thread_goes_on(tiny_pipeline: Any) -> None:
    """Both are in the middle of a run when one of them is interrupted."""
    wanted = tiny_pipeline.text_to_image("a cat", **FAST).latents
    both, made, steps = threading.Barrier(2, timeout=600), {}, []

    def meet(_pipe: Any, step: int, *_rest: Any) -> None:
        steps.append(step)
        if step in (1, 2):
            both.wait()

    def stopping(pipe: Any, step: int, *_rest: Any) -> None:
        if step == 1:
            both.wait()
            tiny_pipeline._interrupt = True  # the pipeline that everybody has, as well as the one that is handed in
            assert pipe._interrupt
            both.wait()

    def stopped() -> None:
        made["stopped"] = tiny_pipeline.text_to_image("a dog", callback_on_step_end=stopping, **FAST).latents

    thread = threading.Thread(target=stopped)
    thread.start()
    made["whole"] = tiny_pipeline.text_to_image("a cat", callback_on_step_end=meet, **FAST).latents
    thread.join(timeout=600)
    assert steps == [0, 1, 2, 3, 4, 5]
    assert torch.equal(made["whole"], wanted)
    assert not torch.equal(made["stopped"], tiny_pipeline.text_to_image("a dog", **FAST).latents)


def test_a_run_within_a_run_ends_alone_and_leaves_the_outer_one_its_flag(tiny_pipeline: Any) -> None:
    wanted = tiny_pipeline.text_to_image("a cat", **FAST).latents
    steps: list[str] = []

    def nested(pipe: Any, step: int, *_rest: Any) -> None:
        steps.append(f"outer {step}")
        if step == 0:
            inner = lambda p, s, *rest: (steps.append(f"inner {s}"), stop(p, s, *rest))[1]  # noqa: E731
            pipe.text_to_image("a dog", callback_on_step_end=inner, **FAST)
            assert not pipe._interrupt

    assert torch.equal(tiny_pipeline.text_to_image("a cat", callback_on_step_end=nested, **FAST).latents, wanted)
    assert steps == ["outer 0", "inner 0", "inner 1", *(f"outer {k}" for k in range(1, 6))]

    def after_the_inner_one(pipe: Any, step: int, *_rest: Any) -> None:
        pipe.text_to_image("a dog", **{**FAST, "num_inference_steps": 1})
        pipe._interrupt = step == 2
        steps.append(f"last {step}")

    tiny_pipeline.text_to_image("a cat", callback_on_step_end=after_the_inner_one, **FAST)
    assert steps[-1] == "last 2"


def test_outside_of_a_run_there_is_nothing_to_interrupt(tiny_pipeline: Any) -> None:
    tiny_pipeline._interrupt = False  # scripts do so before a run
    assert not tiny_pipeline._interrupt
    with pytest.raises(ValueError, match="no active run of this pipeline in this thread"):
        tiny_pipeline._interrupt = True

    def failing(*_given: Any) -> None:
        raise KeyError("a mistake of the callback")

    with pytest.raises(KeyError):
        tiny_pipeline.text_to_image("a cat", callback_on_step_end=failing, **FAST)
    with pytest.raises(ValueError, match="no active run"):
        tiny_pipeline._interrupt = True


@pytest.mark.parametrize("every", [1, 5])
def test_image_and_caption_end_together(tiny_pipeline: Any, every: int) -> None:
    from versatile_diffusion.applications.joint import Exchange

    steps: list[int] = []

    def watched(pipe: Any, step: int, timestep: int, tensors: dict[str, Any]) -> None:
        steps.append(step)
        stop(pipe, step, timestep, tensors)

    both = joint(
        tiny_pipeline, exchange=Exchange(every=every), num_inference_steps=6, seed=0, callback_on_step_end=watched
    )
    assert steps == [0, 1]
    assert len(both.caption.texts) == len(both.picture.images) == 1
