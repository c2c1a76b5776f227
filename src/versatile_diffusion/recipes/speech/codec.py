"""Training of the audio codec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from versatile_diffusion.modalities.audio.spectrogram import FLOOR
from versatile_diffusion.modalities.audio.vae import DOWN, AudioVAE
from versatile_diffusion.modalities.image.lite_vae import gradient_l1
from versatile_diffusion.recipes.speech.levels import louder, shift_later
from versatile_diffusion.training.engine.loop import Objective
from versatile_diffusion.training.engine.optimizer import split_parameters


@dataclass(frozen=True)
class AudioCodecSettings:
    """What the audio codec is and how it is trained.

    Args:
        widths: of `AudioVAE`.
        batch_size: recordings per step.
        lr: of AdamW.
        gradient_weight, kl_weight: of the loss on differences of levels, and of the divergence from a normal
            distribution.
        shift: largest move in frames.
        gain: largest change of loudness in dB.
        muon_lr: of Muon for the filters; None trains them with AdamW.
    """

    widths: tuple[int, int] = (48, 96)
    batch_size: int = 8
    lr: float = 2e-3
    weight_decay: float = 1e-4
    gradient_weight: float = 0.5
    kl_weight: float = 1e-4
    shift: int = 8
    gain: float = 3.0
    muon_lr: float | None = 0.04


def mel_distance(left: Float[Tensor, "b 1 h w"], right: Float[Tensor, "b 1 h w"]) -> Float[Tensor, " b"]:
    """Return the mean absolute difference of the levels in dB, where either sounds."""
    sounds = ((left > 0) | (right > 0)).float()
    apart = reduce((left - right).abs() * sounds, "b c h w -> b", "sum")
    return FLOOR * apart / reduce(sounds, "b c h w -> b", "sum").clamp_min(1)


class AudioCodecObjective(Objective[AudioVAE]):
    """Levels, their differences and a little Kullback-Leibler divergence; measured by the mel distance.

    Args:
        levels: of the training recordings, (N, 1, bands, frames).
        held_out: levels to measure on, by split; the first split's are on the sample sheet.
        settings: of the codec and its training.
        device: where to train.
    """

    name = "audio-codec"

    def __init__(
        self, levels: Tensor, held_out: Mapping[str, Tensor], settings: AudioCodecSettings, device: torch.device
    ):
        self.recipe, self.device, self.batch_size = settings, device, settings.batch_size
        self.levels = levels.to(device)
        self.held_out = {split: found.to(device) for split, found in held_out.items()}

    def settings(self) -> dict[str, Any]:
        return asdict(self.recipe)

    def build(self) -> AudioVAE:
        return AudioVAE(self.recipe.widths).to(memory_format=torch.channels_last)

    def optimizers(self, module: AudioVAE) -> list[torch.optim.Optimizer]:
        recipe, last = self.recipe, len(module.decoder) - 2
        not_muon = ("encoder.1.", f"decoder.{last}.")
        groups = split_parameters(module, muon=recipe.muon_lr is not None, not_muon=not_muon)
        return groups.optimizers(recipe.lr, recipe.weight_decay, (0.9, 0.98), recipe.muon_lr or 0.0, 0.0, muon_steps=4)

    def batch(self, step: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Levels (B, 1, bands, frames), moved and made louder by chance, and noise for the posterior."""
        rows = torch.randint(len(self.levels), (self.batch_size,), generator=generator, device=self.device)
        levels = shift_later(self.levels[rows].float(), self.recipe.shift, generator)
        levels = louder(levels, self.recipe.gain, generator)
        shape = (self.batch_size, 4, levels.shape[2] // DOWN, levels.shape[3] // DOWN)
        return levels, torch.randn(shape, generator=generator, device=self.device)

    def loss(self, module: AudioVAE, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        levels, noise = batch
        mean, log_variance = module.posterior(levels)
        output = module.reconstruct(mean + (0.5 * log_variance).exp() * noise)
        parts = {
            "l1": F.l1_loss(output, levels),
            "gradient": gradient_l1(output, levels),
            "kl": 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean(),
        }
        recipe = self.recipe
        total = parts["l1"] + recipe.gradient_weight * parts["gradient"] + recipe.kl_weight * parts["kl"]
        return total, parts

    def evaluate(self, module: AudioVAE) -> dict[str, float]:
        result = {}
        for split, found in self.held_out.items():
            parts = [mel_distance(_restore(module, part.float()), part.float()) for part in found.split(64)]
            result[f"mel-distance/{split}"] = float(torch.cat(parts).mean())
        return result

    def sample_sheet(self, module: AudioVAE, path: Path) -> None:
        """Held-out recordings as levels, each above its reconstruction."""
        found = next(iter(self.held_out.values()))
        levels = found[torch.linspace(0, len(found) - 1, 16).long().to(self.device)].float()
        sheet = rearrange(
            [levels, _restore(module, levels)], "two (row column) 1 h w -> (row two h) (column w)", column=4
        )
        Image.fromarray((sheet.flip(0) * 255).round().byte().cpu().numpy()).save(path.with_suffix(".png"))

    def export(self, module: AudioVAE, folder: Path) -> None:
        """Measures the latents on the training set and writes the codec."""
        with torch.no_grad():
            chosen = self.levels[:: max(1, len(self.levels) // 4096)]
            latents = torch.cat([module.posterior(part.float())[0] for part in chosen.split(64)])
            module.latent_std.copy_(latents.std(dim=(0, 2, 3)))
            module.latent_mean.copy_(latents.mean(dim=(0, 2, 3)))
        module.save_pretrained(folder)


def _restore(module: AudioVAE, levels: Tensor) -> Tensor:
    return module.reconstruct(module.posterior(levels)[0]).clamp(0, 1)
