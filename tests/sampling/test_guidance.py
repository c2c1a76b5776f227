"""Guidance and mixing by their laws, with a real diffuser of random weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from versatile_diffusion.diffuser.context import Context, MixByLayer
from versatile_diffusion.sampling.guidance import guided
from versatile_diffusion.sampling.rules import MIXINGS, Guide

DATA = "image"
T = torch.tensor([401, 401])


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def latent() -> torch.Tensor:
    return draw(0, 2, 4, 4, 4)


def guide(seed: int, stream: str, weight: float = 1.0, null_length: int = 5) -> Guide:
    return Guide(Context(stream, draw(seed, 2, 5, 192), weight), draw(seed + 100, 2, null_length, 192))


@pytest.fixture
def unet(tiny_pipeline: Any) -> Any:
    return tiny_pipeline.unet


@torch.no_grad()
def plain(unet: Any, latent: torch.Tensor, *contexts: Context, **options: Any) -> torch.Tensor:
    return unet(latent, T, list(contexts), data=DATA, **options)


def nulls(*guides: Guide) -> list[Context]:
    return [Context(g.context.stream, g.null, g.context.weight) for g in guides]


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return torch.allclose(a, b, atol=1e-5 * float(b.abs().max()))


def test_scale_one_is_a_single_conditional_call(unet: Any, latent: torch.Tensor, monkeypatch: Any) -> None:
    one = guide(1, "text")
    batches = []
    inner = type(unet).forward
    monkeypatch.setattr(
        type(unet), "forward", lambda self, x, *a, **k: batches.append(len(x)) or inner(self, x, *a, **k)
    )
    predicted = guided(unet, [one], data=DATA, scale=1)(latent, T)
    assert batches == [2]
    assert torch.equal(predicted, plain(unet, latent, one.context))


@pytest.mark.parametrize("null_length", [5, 3])
@pytest.mark.parametrize("scale", [0, 0.5, 7.5])
def test_guidance_is_its_formula(unet: Any, latent: torch.Tensor, scale: float, null_length: int) -> None:
    """In one pass of twice the batch, and in two where the null context has another length."""
    guides = [guide(1, "text", 0.7, null_length), guide(2, "image", 0.3)]
    cond = plain(unet, latent, *(g.context for g in guides))
    uncond = plain(unet, latent, *nulls(*guides))
    predicted = guided(unet, guides, data=DATA, scale=scale)(latent, T)
    assert close(predicted, uncond + scale * (cond - uncond))


@pytest.mark.parametrize("mixing", MIXINGS)
def test_one_hot_weights_are_the_single_context(unet: Any, latent: torch.Tensor, mixing: str) -> None:
    alone = guided(unet, [guide(2, "image")], data=DATA, scale=3.0, mixing=mixing)(latent, T)
    guides = [guide(1, "text", 0.0), guide(2, "image", 0.4), guide(3, "text", 0.0)]
    assert torch.equal(guided(unet, guides, data=DATA, scale=3.0, mixing=mixing)(latent, T), alone)


def test_model_mixing_averages_predictions(unet: Any, latent: torch.Tensor) -> None:
    first, second = guide(1, "text", 3.0), guide(2, "image", 1.0)
    mixed = guided(unet, [first, second], data=DATA, scale=2.0, mixing="model")(latent, T)
    parts = [guided(unet, [g], data=DATA, scale=2.0)(latent, T) for g in (first, second)]
    assert close(mixed, 0.75 * parts[0] + 0.25 * parts[1])
    assert not close(mixed, guided(unet, [first, second], data=DATA, scale=2.0)(latent, T))


@pytest.mark.parametrize("mixing", MIXINGS)
def test_equal_contexts_mix_to_themselves(unet: Any, latent: torch.Tensor, mixing: str) -> None:
    alone = guided(unet, [guide(1, "text")], data=DATA, scale=2.0)(latent, T)
    first = 0.6 if mixing == "join" else 0.2  # joined tokens are scaled by their weight
    twice = guided(unet, [guide(1, "text", first), guide(1, "text", 0.6)], data=DATA, scale=2.0, mixing=mixing)(
        latent, T
    )
    assert close(twice, alone)


@pytest.mark.parametrize("null_length", [5, 3])
def test_layer_mixing_takes_the_same_choices_in_both_halves(unet: Any, latent: torch.Tensor, null_length: int) -> None:
    guides = [guide(1, "text", 0.5, null_length), guide(2, "image", 0.5)]
    predicted = guided(unet, guides, data=DATA, scale=2.0, mixing="layer", layer_seed=4)(latent, T)
    choices = MixByLayer(generator=torch.Generator().manual_seed(4 * 1000 + 401))
    cond = plain(unet, latent, *(g.context for g in guides), mix=choices)
    assert len(set(choices.plan)) == 2  # otherwise this seed shows nothing
    uncond = plain(unet, latent, *nulls(*guides), mix=MixByLayer(choices=choices.plan))
    assert close(predicted, uncond + 2 * (cond - uncond))


def test_layer_seeds_differ(unet: Any, latent: torch.Tensor) -> None:
    guides = [guide(1, "text"), guide(2, "image")]
    found = [guided(unet, guides, data=DATA, scale=1, mixing="layer", layer_seed=s)(latent, T) for s in range(6)]
    assert any(not torch.equal(found[0], other) for other in found[1:])
    assert torch.equal(found[0], guided(unet, guides, data=DATA, scale=1, mixing="layer")(latent, T))


def test_refusals(unet: Any) -> None:
    with pytest.raises(ValueError, match="unknown mixing 'pixels'; allowed: attention, layer, model, join"):
        guided(unet, [guide(1, "text")], data=DATA, scale=1, mixing="pixels")
    with pytest.raises(ValueError, match="weights"):
        guided(unet, [guide(1, "text", 0.0)], data=DATA, scale=1)
