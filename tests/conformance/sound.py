"""A modality that the library does not ship, in one file: short sounds, as a package of somebody else's would bring it.

`docs/guides/add_a_modality.md` explains what is here. One entry point (`tests/conformance/conftest.py`) makes it known.
"""

from __future__ import annotations

import io
import wave
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
import torch
from diffusers.configuration_utils import register_to_config
from einops import rearrange
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from versatile_diffusion.layers.attention import context_layers
from versatile_diffusion.layers.fc import fc_layer
from versatile_diffusion.modalities import Modality
from versatile_diffusion.modalities.base import Codec, ContextEncoder, Generators

RATE, LENGTH, LATENT, WIDTH, CONCEPT = 8000, 64, 8, 192, 160


@dataclass(frozen=True)
class Sound:
    """Samples from -1 to 1. No array by itself, so that nothing can take it for an image or for tokens."""

    samples: tuple[float, ...]

    @property
    def array(self) -> np.ndarray:
        return np.asarray(self.samples, dtype=np.float32)


def check(value: Any) -> Sound:
    """A sound, or a WAV file of 16 bits: its path, its bytes or an open file."""
    if isinstance(value, Sound):
        return value
    if not isinstance(value, str | Path | bytes):
        raise ValueError(f"a sound is a Sound or a WAV file, not {type(value).__name__}")
    try:
        with wave.open(io.BytesIO(value) if isinstance(value, bytes) else str(value), "rb") as file:
            levels = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    except (wave.Error, EOFError, OSError) as error:
        raise ValueError(f"{value!s:.60} cannot be read as a WAV file ({error})") from error
    return Sound(tuple((levels.astype(np.float32) / 32767).tolist()))


def write(sound: Sound, stream: BinaryIO, chunks: Mapping[str, str]) -> None:
    with wave.open(stream, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((sound.array * 32767).round().astype("<i2").tobytes())


def draw(sound: Sound) -> Image.Image:
    """Its wave, black on white."""
    heights = np.interp(np.linspace(0, 1, LENGTH), np.linspace(0, 1, len(sound.samples)), sound.array)
    rows = np.linspace(1, -1, 32)[:, None]
    return Image.fromarray(np.where(np.abs(rows) <= np.abs(heights), 0, 255).astype(np.uint8)).convert("RGB")


def data_stream(plan: Any, *, time_width: int, norm_groups: int, width: int = LATENT) -> nn.ModuleList:
    options = {"width": width, "positions": 4, "time_width": time_width, "norm_groups": norm_groups}
    return nn.ModuleList(fc_layer(stage, **options) for stage in plan)


def context_stream(plan: Any, *, norm_groups: int, heads: int, width: int = WIDTH) -> nn.ModuleList:
    return context_layers(plan, width=width, heads=heads, norm_groups=norm_groups)


def tensor_of(sounds: Sequence[Sound]) -> Tensor:
    """(B, LENGTH)"""
    rows = [F.interpolate(torch.from_numpy(sound.array)[None, None], LENGTH, mode="linear")[0, 0] for sound in sounds]
    return torch.stack(rows)


class SoundCodec(Codec):
    modality: ClassVar[str] = "sound"

    @register_to_config
    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(LENGTH, LATENT), nn.Linear(LATENT, LENGTH)

    def latent_shape(self, **size: int) -> tuple[int, ...]:
        if size:
            raise ValueError(f"a sound has no {', '.join(size)}")
        return (LATENT,)

    @torch.no_grad()
    def encode(self, values: Sequence[Sound], generators: Generators = None, **size: int) -> Tensor:
        return self.down(tensor_of(values).to(self.device, self.dtype))

    @torch.no_grad()
    def decode(self, latents: Tensor, generators: Generators = None, **options: Any) -> list[Sound]:
        if options:
            raise ValueError(f"the sound decoder takes no options; got {', '.join(options)}")
        # to the 16 bits that a file holds
        levels = (self.up(latents.to(self.device, self.dtype)).tanh().float() * 32767).round() / 32767
        return [Sound(tuple(row.tolist())) for row in levels.cpu().numpy()]


class SoundContext(ContextEncoder):
    modality: ClassVar[str] = "sound"
    space: ClassVar[str | None] = "dual"

    @register_to_config
    def __init__(self) -> None:
        super().__init__()
        self.tokens, self.concept = nn.Linear(LENGTH // 4, WIDTH), nn.Linear(LENGTH, CONCEPT)

    @torch.no_grad()
    def encode(self, values: Sequence[Sound], masks: Sequence[Any] | None = None) -> Tensor:
        return self.tokens(rearrange(tensor_of(values).to(self.device, self.dtype), "b (l d) -> b l d", l=4))

    @torch.no_grad()
    def compare(self, values: Sequence[Sound]) -> Tensor:
        return F.normalize(self.concept(tensor_of(values).to(self.device, self.dtype)), dim=1)


SOUND = Modality(
    name="sound",
    data_stream=data_stream,
    context_stream=context_stream,
    check=check,
    blanks={"silence": Sound((0.0,) * LENGTH)},
    null="silence",
    suffixes=(".snd",),
    from_stream=lambda stream, name: [check(stream.read())],
    write=write,
    numbers=lambda sound: sound.array,
    draw=draw,
    words=lambda sound: f"{len(sound.samples)} samples",
    forms={"np": lambda sounds: np.stack([sound.array for sound in sounds]), "pt": tensor_of},
    parts={"SoundCodec": f"{__name__}:SoundCodec", "SoundContext": f"{__name__}:SoundContext"},
)
