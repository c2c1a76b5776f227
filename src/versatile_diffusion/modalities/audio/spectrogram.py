"""Log-mel spectrograms, and back to sound by Griffin-Lim."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.audio_utils import mel_filter_bank

from versatile_diffusion.modalities.audio.waveform import RATE, SAMPLES

BANDS = 64
WINDOW, HOP = 1024, 320
"""Samples of a window and of a Fourier transform (64 ms), and from one to the next (20 ms). A hop of 10 ms restores
levels no better than this one at this window (0.53 and 0.60 dB, docs/log.md) and has twice the latents."""
LOWEST, HIGHEST = 40.0, 8000.0  # Hz
FLOOR = 80.0
"""Range of levels in dB below full scale; they become 0 (silence) to 1."""
STEP = 0.1  # dB
ITERATIONS = 60
MOMENTUM = 0.99
UNMIXING = 60


@lru_cache(maxsize=2)
def filters(bands: int = BANDS) -> Float[Tensor, "frequencies bands"]:
    """Return the mel filter bank, each filter with a maximum of one."""
    bank = mel_filter_bank(WINDOW // 2 + 1, bands, LOWEST, HIGHEST, RATE, norm=None, mel_scale="slaney")
    return torch.from_numpy(bank).float()


FRAMES = SAMPLES // HOP


def log_mel(samples: Float[Tensor, "b n"]) -> Float[Tensor, "b bands frames"]:
    """Return levels in 0..1 of the mel bands, 0 for silence."""
    bank = filters().to(samples)
    # amplitude of a sine: the window's sum is half its length, and half of a sine is at the negative frequency
    magnitude = 4 / WINDOW * _stft(samples).abs()[..., : samples.shape[1] // HOP]
    level = 20 * (bank.T @ magnitude).clamp_min(1e-9).log10()
    return (1 + level / FLOOR).clamp(0, 1)


def sound(levels: Float[Tensor, "b bands frames"]) -> Float[Tensor, "b n"]:
    """Return waveforms with these levels, rounded to `STEP`: the search for phases would make rounding errors audible.

    Each is computed by itself, so that a value does not depend on its batch.
    """
    return torch.cat([_sound(one[None]) for one in (levels * FLOOR / STEP).round() * STEP / FLOOR])


def _sound(levels: Float[Tensor, "1 bands frames"]) -> Float[Tensor, "1 n"]:
    mel = 10 ** (FLOOR / 20 * (levels.clamp(0, 1) - 1))
    mel = torch.where(levels > 0, mel, torch.zeros_like(mel))
    magnitude = WINDOW / 4 * _unmix(mel)
    return _griffin_lim(torch.cat([magnitude, magnitude[..., -1:]], dim=2))


def _unmix(mel: Float[Tensor, "b bands frames"]) -> Float[Tensor, "b frequencies frames"]:
    """Return magnitudes that are not negative and have these mel levels, by multiplicative updates (Lee and Seung)."""
    bank = filters().to(mel)
    found = (bank / bank.sum(0)) @ mel + 1e-8
    for _ in range(UNMIXING):
        found = found * (bank @ mel) / (bank @ (bank.T @ found)).clamp_min(1e-12)
    return found


def _griffin_lim(magnitude: Float[Tensor, "b frequencies frames"]) -> Float[Tensor, "b n"]:
    """Find phases by Griffin-Lim with momentum (Perraudin et al. 2013), from the same random ones each time."""
    chance = torch.rand(magnitude.shape[1:], generator=torch.Generator().manual_seed(0)).to(magnitude)
    phase = torch.polar(torch.ones_like(chance), 2 * math.pi * chance)[None]
    before = torch.zeros_like(phase)
    for _ in range(ITERATIONS):
        now = _stft(_istft(magnitude * phase))
        phase = now - MOMENTUM / (1 + MOMENTUM) * before
        phase = phase / phase.abs().clamp_min(1e-16)
        before = now
    return _istft(magnitude * phase)


def _stft(samples: Float[Tensor, "b n"]) -> Tensor:
    window = torch.hann_window(WINDOW, device=samples.device)
    return torch.stft(samples, WINDOW, HOP, window=window, center=True, pad_mode="constant", return_complex=True)


def _istft(spectrum: Tensor) -> Float[Tensor, "b n"]:
    window = torch.hann_window(WINDOW, device=spectrum.device)
    return torch.istft(spectrum, WINDOW, HOP, window=window, center=True, length=(spectrum.shape[-1] - 1) * HOP)
