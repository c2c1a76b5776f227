"""Classifier-free guidance, and mixing several contexts at the level of attention, layers or whole models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from versatile_diffusion.diffuser.context import Context, Mix, MixByLayer, mix_by_attention, shares
from versatile_diffusion.diffuser.unet import MultiFlowUNet
from versatile_diffusion.sampling.denoise import Predict


@dataclass(frozen=True)
class Guide:
    """One context, and what stands for its absence.

    Args:
        context: tokens (B, L, D) with their stream and weight.
        null: the task's null context, (B, L', D) for the same stream.
    """

    context: Context
    null: Tensor


@dataclass(frozen=True)
class Mixing:
    """How several contexts act together (paper section 3.3).

    Args:
        separately: whether each context guides a pass of its own, whose predictions are averaged (model level).
        mix: of a pass with several contexts, `(layer seed, timestep) -> Mix`.
    """

    separately: bool
    mix: Callable[[int, int], Mix]


def _by_layer(seed: int, timestep: int) -> Mix:
    # Seeded anew for each timestep: both halves of guidance, and a run that begins later, get the same choices.
    return MixByLayer(generator=torch.Generator().manual_seed(seed * 1000 + timestep))


MIXINGS: dict[str, Mixing] = {
    "attention": Mixing(False, lambda seed, timestep: mix_by_attention),
    "layer": Mixing(False, _by_layer),
    "model": Mixing(True, lambda seed, timestep: mix_by_attention),
}


def guided(
    unet: MultiFlowUNet,
    guides: Sequence[Guide],
    *,
    data: str,
    scale: float,
    mixing: str = "attention",
    layer_seed: int = 0,
) -> Predict:
    """The diffuser with its guidance: uncond + scale (cond - uncond). Scale 1 makes a single conditional call.

    Keys and values of the contexts are computed here, once. Where a context and its null have the same length, both
    halves are one pass of twice the batch.

    Args:
        unet: the diffuser.
        guides: what guides; those of weight 0 are left out.
        data: the data stream to run.
        scale: of classifier-free guidance, shared by all contexts.
        mixing: a key of `MIXINGS`.
        layer_seed: draws the choices of layer mixing, the same for every item of the batch.

    Raises:
        ValueError: the mixing is unknown, or no guide has a weight above 0.
    """
    if mixing not in MIXINGS:
        raise ValueError(f"unknown mixing {mixing!r}; allowed: {', '.join(MIXINGS)}")
    level = MIXINGS[mixing]
    active = [(guide, share) for guide, share in zip(guides, shares([g.context for g in guides]), strict=True) if share]
    groups = [([guide], share) for guide, share in active] if level.separately else [([g for g, _ in active], 1.0)]
    branches = [(_branch(unet, group, data, scale), share) for group, share in groups]

    @torch.no_grad()
    def predict(latent: Tensor, timestep: Tensor) -> Tensor:
        mix = level.mix(layer_seed, int(timestep[0]))
        parts = [branch(latent.to(unet.dtype), timestep, mix).to(latent.dtype) * share for branch, share in branches]
        return sum(parts[1:], start=parts[0])

    return predict


def _branch(
    unet: MultiFlowUNet, guides: Sequence[Guide], data: str, scale: float
) -> Callable[[Tensor, Tensor, Mix], Tensor]:
    """One guided prediction from contexts that act within the same pass."""
    contexts = [guide.context for guide in guides]
    if scale == 1:
        projected = unet.project(contexts)
        return lambda latent, timestep, mix: unet(latent, timestep, projected, data=data, mix=mix)
    nulls = [replace(guide.context, tokens=guide.null) for guide in guides]
    if all(guide.context.tokens.shape == guide.null.shape for guide in guides):
        joined = unet.project(
            [replace(c, tokens=torch.cat([n.tokens, c.tokens])) for n, c in zip(nulls, contexts, strict=True)]
        )

        def passes(latent: Tensor, timestep: Tensor, mix: Mix) -> tuple[Tensor, Tensor]:
            twice = unet(torch.cat([latent, latent]), torch.cat([timestep, timestep]), joined, data=data, mix=mix)
            return twice.chunk(2)
    else:
        with_null, with_context = unet.project(nulls), unet.project(contexts)

        def passes(latent: Tensor, timestep: Tensor, mix: Mix) -> tuple[Tensor, Tensor]:
            first = unet(latent, timestep, with_null, data=data, mix=mix)
            again = MixByLayer(choices=mix.plan) if isinstance(mix, MixByLayer) else mix
            return first, unet(latent, timestep, with_context, data=data, mix=again)

    def predict(latent: Tensor, timestep: Tensor, mix: Mix) -> Tensor:
        uncond, cond = passes(latent, timestep, mix)
        return uncond + scale * (cond - uncond)

    return predict
