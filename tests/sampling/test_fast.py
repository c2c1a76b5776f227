"""Presets that leave work out: what each leaves out, and that none is the default."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from versatile_diffusion import Condition, Context, VersatileDiffusionPipeline
from versatile_diffusion.controls import REQUEST
from versatile_diffusion.diffuser.deep import Deep
from versatile_diffusion.layers.plan import deep_span, unet_plan
from versatile_diffusion.pipeline.replay import EARLIER
from versatile_diffusion.sampling.fast import FAST, Fast
from versatile_diffusion.sampling.guidance import guided
from versatile_diffusion.sampling.rules import Guide

TIMESTEPS = [800, 600, 400, 200]


def test_the_deep_stages_pop_what_they_push() -> None:
    plan = unet_plan(8, (1, 2, 4, 4), 2, (True, True, True, False))
    for level in range(3):
        first, last = deep_span(plan, level)
        assert (plan[first].kind, plan[last - 1].kind) == ("down", "up")
        held = [0]
        for stage in plan[first:last]:
            held.append(held[-1] + stage.pushes - stage.pops)
        assert (min(held), held[-1]) == (0, 0)
    assert all(a[0] < b[0] and b[1] < a[1] for a, b in pairwise(deep_span(plan, level) for level in range(3)))
    with pytest.raises(ValueError, match="levels 0 to 2"):
        deep_span(plan, 3)


@pytest.fixture
def asked(tiny_pipeline: VersatileDiffusionPipeline) -> tuple[torch.Tensor, torch.Tensor, list[Context]]:
    torch.manual_seed(0)
    tokens = tiny_pipeline.encode_context(["a red apple", "a cat"], "text")
    channels, side = tiny_pipeline.bank.codecs["image"].latent_shape()[0], 8
    return torch.randn(2, channels, side, side), torch.tensor([500, 500]), [Context("text", tokens)]


@torch.no_grad()
def test_running_the_deep_stages_each_time_changes_nothing(
    tiny_pipeline: VersatileDiffusionPipeline, asked: tuple[torch.Tensor, torch.Tensor, list[Context]]
) -> None:
    latent, timestep, contexts = asked
    unet = tiny_pipeline.unet
    plain = unet(latent, timestep, contexts, data="image")
    deep = Deep(unet.plan, 0)
    for _ in range(2):
        assert torch.equal(unet(latent, timestep, contexts, data="image", deep=deep), plain)
        assert deep.ran


@torch.no_grad()
def test_kept_deep_stages_do_not_run_and_the_others_do(
    tiny_pipeline: VersatileDiffusionPipeline, asked: tuple[torch.Tensor, torch.Tensor, list[Context]]
) -> None:
    latent, timestep, contexts = asked
    unet = tiny_pipeline.unet
    deep, ran = Deep(unet.plan, 0), list[int]()
    handles = [
        block.register_forward_hook(lambda *_, number=number: ran.append(number))
        for number, block in enumerate(unet.data["image"])
    ]
    first = unet(latent, timestep, contexts, data="image", deep=deep)
    ran.clear()
    deep.renew = False
    again = unet(latent, timestep, contexts, data="image", deep=deep)
    other = unet(latent + 0.1, timestep, contexts, data="image", deep=deep)
    for handle in handles:
        handle.remove()
    shallow = [k for k in range(len(unet.plan)) if k not in range(deep.first, deep.last)]
    assert ran == shallow * 2
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def rules(fast: str, **more: object) -> dict[str, object]:
    return {"timesteps": TIMESTEPS, "fast": fast, "scale": 3.0, **more}


def test_an_interval_of_one_is_off_bit_for_bit(
    tiny_pipeline: VersatileDiffusionPipeline,
    asked: tuple[torch.Tensor, torch.Tensor, list[Context]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    latent, timestep, (context,) = asked
    guide = Guide(context, torch.zeros_like(context.tokens))
    monkeypatch.setitem(FAST, "one", Fast(every=1))  # type: ignore[arg-type]
    runs = {name: guided(tiny_pipeline.unet, [guide], data="image", **rules(name)) for name in ("off", "one", "deep")}
    predictions = {
        name: [run(latent * (1 + 0.1 * k), torch.full_like(timestep, t)) for k, t in enumerate(TIMESTEPS)]
        for name, run in runs.items()
    }
    same = {
        name: [torch.equal(a, b) for a, b in zip(found, predictions["off"], strict=True)]
        for name, found in predictions.items()
    }
    assert same == {"off": [True] * 4, "one": [True] * 4, "deep": [True, False, True, False]}
    assert runs["one"].cost == runs["off"].cost
    assert runs["deep"].cost.passes == runs["off"].cost.passes
    assert runs["deep"].cost.data_blocks < runs["off"].cost.data_blocks
    assert runs["deep"].cost.context_blocks < runs["off"].cost.context_blocks


@pytest.mark.parametrize("fast", [name for name, fast in FAST.items() if not fast.distilled])
def test_a_record_has_it_and_a_replay_repeats_it(tiny_pipeline: VersatileDiffusionPipeline, fast: str) -> None:
    options = {"seed": 3, "num_inference_steps": 5, "guidance_scale": 3.0}
    made = tiny_pipeline.text_to_image("a", fast=fast, output_type="latent", **options)
    plain = tiny_pipeline.text_to_image("a", output_type="latent", **options)
    assert made.settings["fast"] == fast
    assert torch.equal(made.latents, plain.latents) == (fast == "off")
    assert torch.equal(tiny_pipeline.replay(made.settings).latents, made.latents)
    earlier = {name: value for name, value in plain.settings.items() if name != "fast"}
    assert torch.equal(tiny_pipeline.replay(earlier).latents, plain.latents)


def test_the_texts_of_a_text_flow_take_it_too(tiny_pipeline: VersatileDiffusionPipeline) -> None:
    costs = [
        tiny_pipeline.text_variation("a cat", seed=0, num_inference_steps=4, output_type="latent", fast=fast).cost
        for fast in ("off", "deep")
    ]
    assert costs[1].data_blocks < costs[0].data_blocks


def test_a_given_interval_goes_before_that_of_the_preset(tiny_pipeline: VersatileDiffusionPipeline) -> None:
    def passes(**options: object) -> int:
        return tiny_pipeline.text_to_image(
            "a", seed=0, num_inference_steps=10, guidance_scale=3.0, output_type="latent", **options
        ).cost.passes

    low, high = FAST["guidance"].interval
    assert passes(fast="guidance") == passes(guidance_interval=(low, high)) < passes()
    assert passes(fast="guidance", guidance_interval=(0, 0.5)) == passes(guidance_interval=(0, 0.5))


def test_off_is_the_default_everywhere() -> None:
    assert (REQUEST["fast"].default, EARLIER["fast"]) == ("off", "off")
    assert FAST["off"] == replace(Fast(), help=FAST["off"].help)
    assert tuple(FAST) == REQUEST["fast"].choices


def test_what_draws_anew_in_each_step_is_refused(tiny_pipeline: VersatileDiffusionPipeline) -> None:
    conditions = [Condition("text", "a"), Condition("text", "b")]
    with pytest.raises(ValueError, match="fast 'deep' keeps"):
        tiny_pipeline.generate("image", conditions, mixing="layer", fast="deep")
    with pytest.raises(ValueError, match="fast"):
        tiny_pipeline.generate("image", conditions, fast="deepest")


def test_a_distilled_form_that_the_model_lacks_is_refused_with_how_to_make_it(
    idle_pipeline: VersatileDiffusionPipeline,
) -> None:
    with pytest.raises(ValueError, match=r"needs a distilled form.*it has none.*--distill-steps 4"):
        idle_pipeline.text_to_image("a", fast="4")
    with pytest.raises(ValueError, match="--distill-steps 0"):
        idle_pipeline.text_to_image("a", fast="one-pass")
