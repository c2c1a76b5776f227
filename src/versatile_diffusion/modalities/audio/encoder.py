"""Context encoder of recordings, in the space of content and style that images and texts share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from diffusers.configuration_utils import register_to_config
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor, nn

from versatile_diffusion.modalities.audio.spectrogram import BANDS
from versatile_diffusion.modalities.audio.vae import levels_of
from versatile_diffusion.modalities.audio.waveform import Waveform
from versatile_diffusion.modalities.base import ContextEncoder
from versatile_diffusion.modalities.encoders.dual import SPACE, ConvBlock, DualEmbedding, Features, split


def _norm_relu_conv(channels: int, out: int, stride: tuple[int, int]) -> nn.Sequential:
    return nn.Sequential(
        nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False)
    )


class DualAudioEncoder(ContextEncoder):
    """Encoder of recordings to 1 + 24 context tokens: a global one, and one for each 80 ms. Its style is the voice.

    Args:
        widths: channels at 1/2, 1/4 and 1/8 of the bands.
        width: channels of a token; `CONCEPT` for content, the rest for style.
        token_scale: norm of a token; sqrt(width) gives entries of about one.
    """

    modality: ClassVar[str] = "audio"
    space: ClassVar[str | None] = SPACE

    @register_to_config
    def __init__(self, widths: Sequence[int] = (32, 64, 96), width: int = 192, token_scale: float = 192**0.5):
        super().__init__()
        low, middle, high = widths
        self.grid = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(4, low, 3, padding=1),
            ConvBlock(low),
            _norm_relu_conv(low, middle, (2, 2)),
            ConvBlock(middle),
            _norm_relu_conv(middle, high, (2, 1)),
            ConvBlock(high),
            nn.BatchNorm2d(high),
            nn.ReLU(),
        )
        self.mix = nn.Sequential(  # over all bands, and 560 ms
            nn.Conv1d(high * BANDS // 8, 2 * width, 1),
            nn.ReLU(),
            nn.Conv1d(2 * width, 2 * width, 7, padding=3),
            nn.ReLU(),
        )
        self.to_global = nn.Linear(4 * width, width)
        self.to_local = nn.Linear(2 * width, width)

    def forward(self, levels: Float[Tensor, "b 1 bands frames"]) -> Features:
        """Compute features of levels in [0, 1]."""
        steps = self.mix(rearrange(self.grid(levels), "b c h t -> b (c h) t"))
        pooled = torch.cat([reduce(steps, "b c t -> b c", "mean"), reduce(steps, "b c t -> b c", "max")], dim=1)
        return Features(split(self.to_global(pooled)), self.to_local(rearrange(steps, "b c t -> b t c")))

    @torch.no_grad()
    def encode(self, values: Sequence[Waveform], masks: Sequence[Any] | None = None) -> Float[Tensor, "b n d"]:
        """Encode recordings to context tokens (B, 25, 192).

        Raises:
            ValueError: a mask; recordings have none.
        """
        if masks is not None and any(mask is not None for mask in masks):
            raise ValueError("recordings have no masks")
        return self._features(values).tokens(self.config.token_scale)

    @torch.no_grad()
    def embed(self, values: Sequence[Waveform]) -> DualEmbedding:
        """Return global vectors, comparable with those of texts and images by inner product."""
        return self._features(values).embedding

    def compare(self, values: Sequence[Waveform]) -> Float[Tensor, "b d"]:
        """Return unit vectors of content, independent of the voice."""
        return self.embed(values).concept

    def _features(self, values: Sequence[Waveform]) -> Features:
        return self(levels_of(values).to(self.device, self.dtype))
