"""How well sound comes back from its levels, by window and hop: `python benchmarks/hops.py` (needs espeak-ng).

Recordings of a few words in all voices become levels and sound again; both are compared at a window of 64 ms and a hop
of 10 ms, whatever they were restored from, in dB where either sounds.
"""

from __future__ import annotations

import time

import numpy as np
import torch

from versatile_diffusion.modalities.audio import spectrogram
from versatile_diffusion.modalities.audio.waveform import normalise
from versatile_diffusion.recipes.speech.codec import mel_distance
from versatile_diffusion.recipes.speech.data.voices import VOICES, speak

WORDS = ("red apple", "whale")
COMPARED = (1024, 160)
TRIED = ((512, 160), (512, 320), (1024, 160), (1024, 320))


def set_to(window: int, hop: int) -> None:
    """Change what the module computes with."""
    spectrogram.WINDOW, spectrogram.HOP = window, hop
    spectrogram.filters.cache_clear()


def levels_at(samples: torch.Tensor, window: int, hop: int) -> torch.Tensor:
    set_to(window, hop)
    return spectrogram.log_mel(samples)


def main() -> None:
    torch.set_num_threads(1)
    spoken = [speak(voice, word) for word in WORDS for voice in VOICES]
    samples = torch.from_numpy(np.stack([normalise(wave) for wave in spoken]))
    print(f"{len(samples)} recordings\nwindow  hop  latents  mel distance (dB)  seconds each")
    for window, hop in TRIED:
        levels = levels_at(samples, window, hop)
        begun = time.perf_counter()
        restored = spectrogram.sound(levels)
        each = (time.perf_counter() - begun) / len(samples)
        pair = [levels_at(one, *COMPARED)[:, None] for one in (restored, samples)]
        distance = float(mel_distance(*pair).mean())
        print(f"{window:6}  {hop:3}  {levels[0].numel() // 16:7}  {distance:17.2f}  {each:12.2f}")


if __name__ == "__main__":
    main()
