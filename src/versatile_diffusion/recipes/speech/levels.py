"""Augmentation of log-mel levels, drawn from a generator."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from versatile_diffusion.modalities.audio.spectrogram import FLOOR

Levels = Float[Tensor, "b 1 bands frames"]


def _between(low: float, high: float, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return low + (high - low) * torch.rand(shape, generator=generator, device=generator.device)


def shift_later(levels: Levels, frames: int, generator: torch.Generator) -> Levels:
    """Move each recording later by up to `frames` frames; silence comes in."""
    if not frames:
        return levels
    shift = torch.randint(frames + 1, (len(levels),), generator=generator, device=generator.device)
    places = torch.arange(levels.shape[-1], device=levels.device)[None] - shift[:, None]
    moved = levels.gather(3, places.clamp_min(0)[:, None, None].expand_as(levels))
    return torch.where(places[:, None, None] >= 0, moved, torch.zeros_like(moved))


def louder(levels: Levels, decibels: float, generator: torch.Generator) -> Levels:
    """Change each recording's loudness, and its balance of low and high bands, by up to `decibels`; silence stays."""
    size, bands = len(levels), levels.shape[2]
    change = _between(-decibels, decibels, (size, 1, 1, 1), generator)
    tilt = _between(-decibels, decibels, (size, 1, 1, 1), generator) * torch.linspace(
        -1, 1, bands, device=levels.device
    ).view(1, 1, bands, 1)
    return torch.where(levels > 0, (levels + (change + tilt) / FLOOR).clamp(0, 1), levels)


def mask_stripes(levels: Levels, bands: int, frames: int, generator: torch.Generator) -> Levels:
    """Silence one stripe of up to `bands` bands and one of up to `frames` frames (Park et al. 2019)."""
    for axis, most in ((2, bands), (3, frames)):
        length = levels.shape[axis]
        wide = torch.randint(most + 1, (len(levels), 1), generator=generator, device=generator.device)
        start = (_between(0, 1, (len(levels), 1), generator) * (length - wide)).long()
        places = torch.arange(length, device=levels.device)[None]
        kept = (places < start) | (places >= start + wide)
        levels = levels * (kept[:, None, :, None] if axis == 2 else kept[:, None, None]).to(levels)
    return levels


def noisy(levels: Levels, most: float, generator: torch.Generator) -> Levels:
    """Add noise to the levels, of another size in each recording, up to `most`."""
    size = _between(0, most, (len(levels), 1, 1, 1), generator)
    noise = torch.randn(levels.shape, generator=generator, device=generator.device)
    return (levels + size * noise).clamp(0, 1)


def blur_share(levels: Levels, share: float, generator: torch.Generator) -> Levels:
    """Smooth a share of the recordings over neighbouring bands and frames, as a codec does."""
    smooth = F.avg_pool2d(levels, 3, stride=1, padding=1)
    chosen = _between(0, 1, (len(levels), 1, 1, 1), generator) < share
    return torch.where(chosen, smooth, levels)
