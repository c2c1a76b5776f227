"""Laws of mixing several contexts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from versatile_diffusion.diffuser.context import MixByLayer, shares

STEPS = torch.tensor([3, 700])
BOTH = pytest.mark.parametrize("data", ["image", "text"])


@BOTH
def test_a_context_of_weight_zero_is_dropped_exactly_and_never_run(unet, latent, context, data):
    alone = unet(latent(data), STEPS, [context("text")], data=data)
    calls = []
    hooks = [b.register_forward_hook(lambda *_: calls.append(1)) for b in unet.context["image"]]
    mixed = unet(latent(data), STEPS, [context("image", 0.0), context("text", 0.2)], data=data)
    for hook in hooks:
        hook.remove()
    assert torch.equal(mixed, alone)
    assert not calls


@BOTH
def test_only_the_ratio_of_weights_counts(unet, latent, context, data):
    def noise(text: float, image: float) -> torch.Tensor:
        return unet(latent(data), STEPS, [context("text", text), context("image", image)], data=data)

    torch.testing.assert_close(noise(1, 3), noise(0.25, 0.75))
    assert not torch.allclose(noise(1, 3), noise(3, 1))


@BOTH
def test_order_of_contexts_does_not_matter(unet, latent, context, data):
    one, two = context("text", 0.3), context("image", 0.7)
    torch.testing.assert_close(
        unet(latent(data), STEPS, [one, two], data=data), unet(latent(data), STEPS, [two, one], data=data)
    )


@pytest.mark.parametrize(("data", "region"), [("image", None), ("image", torch.rand(8, 8)), ("text", None)])
def test_tokens_of_one_item_guide_latents_next_to_each_other(unet, latent, context, data, region):
    x, steps = latent(data).repeat_interleave(3, 0), torch.arange(6) * 100
    few, other = replace(context("text", 0.3), region=region), context("image", 0.7, batch=6)
    many = replace(few, tokens=few.tokens.repeat_interleave(3, 0))
    torch.testing.assert_close(
        unet(x, steps, [few, other], data=data), unet(x, steps, [many, other], data=data), rtol=1e-4, atol=1e-5
    )


@BOTH
def test_the_same_context_twice_is_the_context(unet, latent, context, data):
    once = unet(latent(data), STEPS, [context("text")], data=data)
    twice = unet(latent(data), STEPS, [context("text", 0.1), context("text", 0.9)], data=data)
    torch.testing.assert_close(once, twice, rtol=1e-4, atol=1e-5)


@BOTH
@pytest.mark.parametrize("chosen", [0, 1])
def test_layer_mixing_with_one_choice_is_that_context(unet, latent, context, data, chosen):
    contexts = [context("text"), context("image")]
    mix = MixByLayer(choices=[chosen] * len(unet.context["text"]))
    mixed = unet(latent(data), STEPS, contexts, data=data, mix=mix)
    assert torch.equal(mixed, unet(latent(data), STEPS, [contexts[chosen]], data=data))


def test_layer_mixing_draws_by_weight_and_is_replayed_by_its_plan(unet, latent, context):
    contexts = [context("text", 0.2), context("image", 0.8), context("text", 0.0, seed=7)]
    mix = MixByLayer(generator=torch.Generator().manual_seed(0))
    drawn: list[int] = []
    plans = []
    for _ in range(60):
        noise = unet(latent("text"), STEPS, contexts, data="text", mix=mix)
        assert len(mix.plan) == len(unet.context["text"])
        plans.append(tuple(mix.plan))
        drawn += mix.plan
    assert 2 not in drawn
    assert drawn.count(1) / len(drawn) == pytest.approx(0.8, abs=0.08)
    assert len(set(plans)) > 1
    again = MixByLayer(choices=mix.plan)
    assert torch.equal(unet(latent("text"), STEPS, contexts, data="text", mix=again), noise)
    assert repr(again) == f"MixByLayer(choices={list(plans[-1])})"


def test_mistakes_are_named(unet, latent, context):
    with pytest.raises(ValueError, match="exactly one"):
        MixByLayer()
    with pytest.raises(ValueError, match="exactly one"):
        MixByLayer(choices=[0], generator=torch.Generator())
    with pytest.raises(ValueError, match="2 choices given"):
        unet(latent("text"), 0, [context("text")], data="text", mix=MixByLayer(choices=[0, 0]))
    with pytest.raises(ValueError, match=r"\[-1.0, 2.0\]"):
        shares([context("text", -1.0), context("text", 2.0)])
