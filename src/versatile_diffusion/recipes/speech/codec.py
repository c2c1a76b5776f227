"""Training of the audio codec."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from einops import rearrange, reduce
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from versatile_diffusion.modalities.audio.spectrogram import FLOOR
from versatile_diffusion.modalities.audio.vae import DOWN, AudioVAE
from versatile_diffusion.recipes.speech.levels import louder, shift_later
from versatile_diffusion.training.parts.gaussian_codec import GaussianCodecObjective, GaussianCodecSettings


@dataclass(frozen=True)
class AudioCodecSettings(GaussianCodecSettings):
    """Architecture and training settings of the audio codec; `shift` is in frames.

    Args:
        gain: largest change of loudness in dB.
    """

    widths: tuple[int, int] = (48, 96)
    shift: int = 8
    gain: float = 3.0


def mel_distance(left: Float[Tensor, "b 1 h w"], right: Float[Tensor, "b 1 h w"]) -> Float[Tensor, " b"]:
    """Return the mean absolute difference of the levels in dB, where either sounds."""
    sounds = ((left > 0) | (right > 0)).float()
    apart = reduce((left - right).abs() * sounds, "b c h w -> b", "sum")
    return FLOOR * apart / reduce(sounds, "b c h w -> b", "sum").clamp_min(1)


class AudioCodecObjective(GaussianCodecObjective[AudioVAE]):
    """`GaussianCodecObjective` of levels (N, 1, bands, frames), evaluated by the mel distance."""

    name, metric = "audio-codec", "mel-distance"
    recipe: AudioCodecSettings

    def compare(self, restored: Float[Tensor, "b 1 h w"], grids: Float[Tensor, "b 1 h w"]) -> Float[Tensor, " b"]:
        return mel_distance(restored, grids)

    def grids(self, stored: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b 1 h w"]:
        return stored.float()

    def build(self) -> AudioVAE:
        return AudioVAE(self.recipe.widths).to(memory_format=torch.channels_last)

    def batch(self, step: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Levels (B, 1, bands, frames), moved and made louder by chance, and noise for the posterior."""
        rows = torch.randint(len(self.stored), (self.batch_size,), generator=generator, device=self.device)
        levels = shift_later(self.stored[rows].float(), self.recipe.shift, generator)
        levels = louder(levels, self.recipe.gain, generator)
        shape = (self.batch_size, 4, levels.shape[2] // DOWN, levels.shape[3] // DOWN)
        return levels, torch.randn(shape, generator=generator, device=self.device)

    def sample_sheet(self, module: AudioVAE, path: Path) -> None:
        """Held-out recordings as levels, each above its reconstruction."""
        pairs = list(self.examples(module, 16))
        sheet = rearrange(pairs, "two (row column) 1 h w -> (row two h) (column w)", column=4)
        Image.fromarray((sheet.flip(0) * 255).round().byte().cpu().numpy()).save(path.with_suffix(".png"))
