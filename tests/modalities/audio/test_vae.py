"""Levels of recordings, their latents, and back to sound."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from einops import rearrange

from tests.modalities.audio.test_waveform import tone
from versatile_diffusion.modalities.audio import silence
from versatile_diffusion.modalities.audio.encoder import DualAudioEncoder
from versatile_diffusion.modalities.audio.spectrogram import BANDS, FLOOR, FRAMES, filters, log_mel, sound
from versatile_diffusion.modalities.audio.vae import FOLD, AudioVAE, levels_of, waves
from versatile_diffusion.modalities.audio.waveform import RATE, SAMPLES, Waveform


def spoken() -> Waveform:
    """Something like a vowel that rises and ends: harmonics of a gliding pitch."""
    time = np.arange(RATE) / RATE
    phase = 2 * np.pi * (120 * time + 40 * time**2)
    samples = sum(np.sin(k * phase) / k for k in range(1, 12)) * np.hanning(RATE)
    return Waveform(0.2 * samples, RATE)


def test_levels_of_silence_and_of_a_full_tone() -> None:
    levels = levels_of([silence(), spoken()])
    assert levels.shape == (2, 1, BANDS, FRAMES)
    assert levels[0].abs().max() == 0
    loud = torch.from_numpy(tone(SAMPLES / RATE, level=1.0))[None]
    peak = log_mel(loud)[0, :, FRAMES // 2].max()
    assert (1 - float(peak)) * FLOOR < 6  # within 6 dB of full scale: 0 dB at the middle of a filter
    assert bool((filters().sum(0) > 0).all())


def test_sound_has_the_levels_that_were_asked_for() -> None:
    levels = levels_of([spoken()])[:, 0]
    again = log_mel(sound(levels))
    heard = levels > 0.3
    assert FLOOR * float((again - levels).abs()[heard].mean()) < 2


def test_a_value_does_not_depend_on_its_batch_and_is_the_same_again() -> None:
    levels = levels_of([spoken(), silence(), Waveform(tone(0.3), RATE)])[:, 0]
    together, first = sound(levels), sound(levels[:1])
    assert torch.equal(together[:1], first)
    assert torch.equal(sound(levels), together)
    assert torch.equal(sound(levels[:1] + 1e-7), first)  # rounding errors of a network are not heard


def test_latents_and_back() -> None:
    codec = AudioVAE((8, 8)).eval()
    latents = codec.encode([spoken(), silence()])
    assert latents.shape == (2, *codec.latent_shape()) == (2, 16, 4, 24)
    grid = rearrange(latents, "b (c fold) h w -> b c (h fold) w", fold=FOLD)  # neighbouring bands are channels
    mean, _ = codec.posterior(levels_of([spoken(), silence()]))
    assert torch.allclose(codec.denormalise(grid), mean, atol=1e-6)
    assert torch.allclose(codec.normalise(codec.denormalise(grid)), grid, atol=1e-6)
    first, second = codec.decode(latents)
    assert (len(first.samples), first.rate, second.rate) == (SAMPLES, RATE, RATE)
    noise = [torch.Generator().manual_seed(k) for k in range(2)]
    assert not torch.equal(codec.encode([spoken(), silence()], noise), latents)
    with pytest.raises(ValueError, match="got 1 generators for 2 recordings"):
        codec.encode([spoken(), silence()], noise[:1])
    with pytest.raises(ValueError, match="a recording has no height"):
        codec.latent_shape(height=8)
    with pytest.raises(ValueError, match="takes no options; got temperature"):
        codec.decode(latents, temperature=1.0)


def test_a_fitted_value_is_encoded_alike() -> None:
    codec = AudioVAE((8, 8)).eval()
    fitted = codec.fit(spoken())
    assert (len(fitted.samples), fitted.rate) == (SAMPLES, RATE)
    assert torch.allclose(codec.encode([fitted]), codec.encode([spoken()]), atol=0.05)
    assert torch.equal(waves([fitted])[0], torch.from_numpy(codec.fit(fitted).samples)) or np.allclose(
        fitted.samples, codec.fit(fitted).samples, atol=0.02
    )


def test_tokens_and_the_shared_space() -> None:
    encoder = DualAudioEncoder((8, 8, 8)).eval()
    tokens = encoder.encode([spoken(), silence()])
    assert tokens.shape == (2, 1 + FRAMES // 4, 192)
    assert torch.allclose(tokens.norm(dim=2), torch.full(tokens.shape[:2], 192**0.5), rtol=1e-4)
    assert torch.allclose(encoder.compare([spoken()]).norm(dim=1), torch.ones(1))
    assert encoder.embed([spoken()]).style.shape == (1, 32)
    with pytest.raises(ValueError, match="recordings have no masks"):
        encoder.encode([spoken()], [np.ones((2, 2))])
