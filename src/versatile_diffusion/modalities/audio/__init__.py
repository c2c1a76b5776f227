"""Audio modality: short mono recordings; latents are a grid [C, groups of bands, frames]. Its record is in
`modalities/records.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from versatile_diffusion.layers.attention import context_layers
from versatile_diffusion.layers.conv import conv_layer
from versatile_diffusion.layers.plan import Stage
from versatile_diffusion.modalities.audio.waveform import RATE, SAMPLES, Waveform, normalise
from versatile_diffusion.modalities.audio.waveform import check_audio as check_audio
from versatile_diffusion.modalities.audio.waveform import write_wav as write_wav
from versatile_diffusion.modalities.records import AUDIO as AUDIO

PICTURE = (192, 192)
"""Width and height of a drawn waveform; square, as the tiles of sheets are."""


def audio_data_stream(
    plan: tuple[Stage, ...], *, time_width: int, norm_groups: int, channels: int = 16
) -> nn.ModuleList:
    """Build residual blocks for latents with `channels` channels."""
    options = {"channels": channels, "time_width": time_width, "norm_groups": norm_groups}
    return nn.ModuleList(conv_layer(stage, **options) for stage in plan)


def audio_context_stream(plan: tuple[Stage, ...], *, norm_groups: int, heads: int, width: int = 192) -> nn.ModuleList:
    """Build context blocks for audio tokens of width `width`."""
    return context_layers(plan, width=width, heads=heads, norm_groups=norm_groups)


def silence() -> Waveform:
    """Return a silent recording."""
    return Waveform(np.zeros(SAMPLES, np.float32), RATE)


def read_stream(stream: BinaryIO, name: str) -> list[Any]:
    """Read the single recording of a stream."""
    return [check_audio(stream.read())]


def numbers(wave: Waveform) -> Float[np.ndarray, " n"]:
    """Return rate and samples."""
    return np.concatenate([np.array([wave.rate], np.float32), wave.samples])


def draw(wave: Waveform) -> Image.Image:
    """Draw the waveform, black on white."""
    width, height = PICTURE
    columns = np.array_split(np.abs(wave.samples), width)
    peaks = np.array([column.max(initial=0) for column in columns]).clip(0, 1)
    rows = np.abs(np.linspace(1, -1, height))[:, None]
    return Image.fromarray(np.where(rows <= np.maximum(peaks, 2 / height), 0, 255).astype(np.uint8)).convert("RGB")


def words(wave: Waveform) -> str:
    """Describe a recording in a line."""
    return f"{wave.seconds:.2f} s at {wave.rate / 1000:g} kHz"


def as_array(waves: Sequence[Waveform]) -> Float[np.ndarray, "b n"]:
    """Convert recordings to an array in [-1, 1], at 16 kHz and of one length."""
    same = {(wave.rate, len(wave.samples)) for wave in waves} == {(RATE, SAMPLES)}
    return np.stack([wave.samples if same else normalise(wave) for wave in waves])


def as_tensor(waves: Sequence[Waveform]) -> Float[Tensor, "b n"]:
    """Convert recordings to a tensor in [-1, 1], at 16 kHz and of one length."""
    return torch.from_numpy(as_array(waves))
