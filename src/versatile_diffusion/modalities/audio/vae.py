"""Small convolutional autoencoder of recordings: log-mel levels of 64 bands by 96 frames to a latent of 16 channels, 4
groups of bands and 24 steps of 80 ms."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers.configuration_utils import register_to_config
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from versatile_diffusion.modalities.audio.spectrogram import BANDS, FRAMES, log_mel, sound
from versatile_diffusion.modalities.audio.waveform import RATE, Waveform, normalise, round_to_16_bits
from versatile_diffusion.modalities.base import Generators
from versatile_diffusion.modalities.gaussian import GaussianCodec, grid_decoder, grid_encoder

DOWN = 4
"""Factor of the autoencoder's grid in both directions."""
FOLD = 4
"""Neighbouring rows of that grid that become channels of the latent. What a band means depends on where it is, so that
convolutions over bands gain little, and a quarter of the positions is a quarter of the diffuser's work."""


def waves(values: Sequence[Waveform]) -> Float[Tensor, "b n"]:
    """Return recordings as the model sees them."""
    return torch.from_numpy(np.stack([normalise(value) for value in values]))


def levels_of(values: Sequence[Waveform]) -> Float[Tensor, "b 1 bands frames"]:
    """Return the levels of recordings, as images of one channel."""
    return log_mel(waves(values))[:, None]


class AudioVAE(GaussianCodec):
    """Variational autoencoder of short recordings, decoded to sound by Griffin-Lim.

    Args:
        widths: channels at 1/2 and 1/4 of the bands and frames.
        latent_channels: channels of the autoencoder's grid; the latent has `FOLD` times as many.

    Buffers:
        latent_mean, latent_std: per channel of the grid, measured on the training set; latents are normalised with
            them.
    """

    modality: ClassVar[str] = "audio"

    @register_to_config
    def __init__(self, widths: Sequence[int] = (48, 96), latent_channels: int = 4):
        super().__init__()
        low, high = widths
        self.encoder = grid_encoder(1, low, high, latent_channels)
        self.decoder = grid_decoder(latent_channels, high, low, 1)
        self.register_buffer("latent_mean", torch.zeros(latent_channels))
        self.register_buffer("latent_std", torch.ones(latent_channels))

    def latent_shape(self, **size: int) -> tuple[int, int, int]:
        """Return (channels, groups of bands, frames / 4).

        Raises:
            ValueError: any size; recordings have one length.
        """
        if size:
            raise ValueError(f"a recording has no {', '.join(sorted(size))}")
        return FOLD * self.config.latent_channels, BANDS // DOWN // FOLD, FRAMES // DOWN

    def fit(self, value: Waveform, **size: int) -> Waveform:
        """Return the recording as generated ones are: 1.92 s at 16 kHz from its first sound on, at one loudness."""
        self.latent_shape(**size)
        return Waveform(round_to_16_bits(normalise(value)), RATE)

    def posterior(
        self, levels: Float[Tensor, "b 1 h w"]
    ) -> tuple[Float[Tensor, "b c h4 w4"], Float[Tensor, "b c h4 w4"]]:
        """Return mean and log-variance of the unscaled grid of levels in [0, 1]."""
        mean, log_variance = self.encoder(levels).chunk(2, dim=1)
        return mean, log_variance.clamp(-20, 10)

    def reconstruct(self, latents: Float[Tensor, "b c h4 w4"]) -> Float[Tensor, "b 1 h w"]:
        """Decode an unscaled grid to levels (not clamped)."""
        return self.decoder(latents)

    @torch.no_grad()
    def encode(
        self, values: Sequence[Waveform], generators: Generators = None, **size: int
    ) -> Float[Tensor, "b c4 h16 w4"]:
        """Encode recordings to latents of unit variance.

        Raises:
            ValueError: not one generator per recording, or a size.
        """
        self.latent_shape(**size)
        mean, log_variance = self.posterior(levels_of(values).to(self.device, self.dtype))
        latents = self.sample(mean, log_variance, generators, "recordings")
        return rearrange(latents, "b c (h fold) w -> b (c fold) h w", fold=FOLD)

    @torch.no_grad()
    def decode(
        self, latents: Float[Tensor, "b c4 h16 w4"], generators: Generators = None, **options: Any
    ) -> list[Waveform]:
        """Decode latents of unit variance to recordings of 16 bits, deterministically; there are no options."""
        if options:
            raise ValueError(f"the audio decoder takes no options; got {', '.join(options)}")
        grid = rearrange(latents, "b (c fold) h w -> b c (h fold) w", fold=FOLD)
        levels = self.reconstruct(self.denormalise(grid.to(self.device, self.dtype)))
        samples = sound(levels[:, 0].float()).cpu().numpy()
        return [Waveform(round_to_16_bits(row.clip(-1, 1)), RATE) for row in samples]
