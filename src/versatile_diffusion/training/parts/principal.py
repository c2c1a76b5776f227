"""A text codec's latents, turned onto the few directions in which they vary."""

from __future__ import annotations

import copy

import torch
from jaxtyping import Int
from torch import Tensor

from versatile_diffusion.modalities.text.optimus import Optimus


@torch.no_grad()
def onto_principal_directions(
    codec: Optimus, ids: Int[Tensor, "n t"], least: float = 0.1, whiten: bool = True
) -> Optimus:
    """The same codec with a shorter latent.

    A codec uses as many directions as it needs. Where these are fewer than its channels, a diffusion on the channels
    spends most of its loss on directions that say nothing. Either the new channels do not correlate, and after
    normalisation each direction counts alike; or, where distances mean something, each channel has a part of every
    direction, so that normalisation leaves the proportions as they are. Both maps from and to the latent are linear,
    so the turn goes into their weights.

    Args:
        codec: trained; its `latent_mean` and `latent_std` are set.
        ids: token ids (padded) on which the directions are measured.
        least: variance of a direction that is kept, in units of a channel's.
        whiten: whether the new channels are the directions themselves.

    Returns:
        A new codec; its latents are normalised per channel. What it decodes differs by the directions left out alone.
        The log-variance that it states is zero: fit it anew.
    """
    means = torch.cat([codec.posterior(part).mean for part in torch.split(ids, 512)])
    mean, std = codec.latent_mean, codec.latent_std
    variances, directions = torch.linalg.eigh(torch.cov(((means - mean) / std).T))
    kept = directions[:, variances > least].flip(1)  # (Z, k), the widest first
    if not whiten:
        mixed = torch.randn(kept.shape[1], kept.shape[1], generator=torch.Generator().manual_seed(0))
        kept = kept @ torch.linalg.qr(mixed).Q.to(kept)
    there, back = kept / std[:, None], kept * std[:, None]
    rest = mean - back @ (there.T @ mean)  # the part of the mean outside of the directions
    config = {**codec.config, "latent_size": kept.shape[1], "decoder_bias": True}
    turned = Optimus(**{name: value for name, value in config.items() if not name.startswith("_")})
    state = copy.deepcopy(codec.state_dict())
    to_mean = there.T @ codec.encoder.to_moments.weight.chunk(2)[0]
    state["encoder.to_moments.weight"] = torch.cat([to_mean, torch.zeros_like(to_mean)])
    for name in ("decoder.to_memory", "decoder.to_embedding"):
        weight = state[f"{name}.weight"]
        state[f"{name}.weight"] = weight @ back
        state[f"{name}.bias"] = weight @ rest + state.get(f"{name}.bias", 0.0)
    state["latent_mean"], state["latent_std"] = there.T @ mean, (means @ there).std(dim=0)
    turned.load_state_dict(state)
    return turned.to(means.device).eval()
