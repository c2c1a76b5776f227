"""Gaussian latents of a small autoencoder, scaled to the unit variance that the diffuser expects."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from versatile_diffusion.modalities.base import Generators


class GaussianLatents:
    """Methods of codecs whose `latent_mean` and `latent_std` (C,) were measured on the training set."""

    latent_mean: Tensor
    latent_std: Tensor

    def normalise(self, latents: Float[Tensor, "b c h4 w4"]) -> Float[Tensor, "b c h4 w4"]:
        """Scale latents to the unit variance that the diffuser expects."""
        return (latents - self.latent_mean[:, None, None]) / self.latent_std[:, None, None]

    def denormalise(self, latents: Float[Tensor, "b c h4 w4"]) -> Float[Tensor, "b c h4 w4"]:
        """The inverse of `normalise`."""
        return latents * self.latent_std[:, None, None] + self.latent_mean[:, None, None]

    def sample(
        self,
        mean: Float[Tensor, "b c h4 w4"],
        log_variance: Float[Tensor, "b c h4 w4"],
        generators: Generators,
        plural: str,
    ) -> Float[Tensor, "b c h4 w4"]:
        """Sample latents of unit variance, each by its own generator; without generators the mean.

        Raises:
            ValueError: not one generator per value; `plural` names the values.
        """
        if generators is None:
            return self.normalise(mean)
        if len(generators) != len(mean):
            one = plural.removesuffix("s")
            raise ValueError(f"got {len(generators)} generators for {len(mean)} {plural}; give one per {one}")
        noise = torch.stack([torch.randn(mean.shape[1:], generator=g, device=g.device) for g in generators])
        return self.normalise(mean + (0.5 * log_variance).exp() * noise.to(mean))
