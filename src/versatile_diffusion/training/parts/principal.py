"""Projection of a text codec's latents onto their principal directions."""

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
    """The same codec with a smaller latent.

    A codec uses as many directions as it needs. If these are fewer than its channels, a diffusion model on the channels
    spends most of its loss on directions without information. With `whiten`, the new channels are uncorrelated, so that
    after normalisation all directions count equally; without, for latents with meaningful distances, the channels are a
    random rotation of the directions, so that normalisation preserves their proportions. The maps from and to the
    latent are linear, so the projection is merged into their weights.

    Args:
        codec: trained, with `latent_mean` and `latent_std`.
        ids: token ids (padded) on which the directions are computed.
        least: minimum variance of a direction to keep, relative to that of a channel.
        whiten: whether the new channels are the directions themselves.

    Returns:
        A new codec with latents normalised per channel. Its outputs differ only by the omitted directions. Its
        log-variance is zero and must be fitted again.
    """
    means = torch.cat([codec.posterior(part).mean for part in torch.split(ids, 512)])
    mean, std = codec.latent_mean, codec.latent_std
    variances, directions = torch.linalg.eigh(torch.cov(((means - mean) / std).T))
    kept = directions[:, variances > least].flip(1)  # (Z, k), largest variance first
    if not whiten:
        mixed = torch.randn(kept.shape[1], kept.shape[1], generator=torch.Generator().manual_seed(0))
        kept = kept @ torch.linalg.qr(mixed).Q.to(kept)
    there, back = kept / std[:, None], kept * std[:, None]
    rest = mean - back @ (there.T @ mean)  # the component of the mean outside the kept directions
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
