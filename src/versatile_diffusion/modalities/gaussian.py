"""What small variational autoencoders of grids share: their layers, and latents scaled to unit variance."""

from __future__ import annotations

from abc import abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from versatile_diffusion.modalities.base import Codec, Generators


class ResidualBlock(nn.Module):
    """Twice norm, SiLU and 3 x 3 convolution, with a residual connection."""

    def __init__(self, channels: int):
        super().__init__()
        self.layers = nn.Sequential(*_norm_conv(channels, channels), *_norm_conv(channels, channels))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x + self.layers(x)


def _norm_conv(channels: int, out: int) -> list[nn.Module]:
    return [nn.GroupNorm(min(16, channels), channels), nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1)]


def grid_encoder(channels: int, low: int, high: int, latent: int) -> nn.Sequential:
    """Build layers from a grid of `channels` channels to mean and log-variance of latents at 1/4 of its size."""
    return nn.Sequential(
        nn.PixelUnshuffle(2),
        nn.Conv2d(4 * channels, low, 3, padding=1),
        ResidualBlock(low),
        nn.Conv2d(low, high, 3, stride=2, padding=1),
        ResidualBlock(high),
        ResidualBlock(high),
        *_norm_conv(high, 2 * latent),
    )


def grid_decoder(latent: int, high: int, low: int, channels: int) -> nn.Sequential:
    """Build layers from latents to a grid of `channels` channels."""
    return nn.Sequential(
        nn.Conv2d(latent, high, 3, padding=1),
        *(ResidualBlock(high) for _ in range(3)),
        nn.Upsample(scale_factor=2, mode="nearest"),
        nn.Conv2d(high, low, 3, padding=1),
        *(ResidualBlock(low) for _ in range(2)),
        *_norm_conv(low, 4 * channels),
        nn.PixelShuffle(2),
    )


class GaussianCodec(Codec):
    """A variational autoencoder whose `latent_mean` and `latent_std` (C,) were measured on the training set."""

    encoder: nn.Sequential
    decoder: nn.Sequential
    latent_mean: Tensor
    latent_std: Tensor

    @abstractmethod
    def posterior(
        self, grid: Float[Tensor, "b c h w"]
    ) -> tuple[Float[Tensor, "b z h4 w4"], Float[Tensor, "b z h4 w4"]]:
        """Return mean and log-variance of the unscaled latent of values in [0, 1]."""

    @abstractmethod
    def reconstruct(self, latents: Float[Tensor, "b z h4 w4"]) -> Float[Tensor, "b c h w"]:
        """Decode unscaled latents to values in [0, 1] (not clamped)."""

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
