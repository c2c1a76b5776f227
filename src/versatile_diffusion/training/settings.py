"""Run settings as functions: each returns the objective and the loop's settings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from versatile_diffusion.training.codecs import ImageCodecObjective, ImageCodecSettings
from versatile_diffusion.training.context_encoders import ContextEncodersObjective, ContextEncodersSettings
from versatile_diffusion.training.loop import LoopSettings, Objective

Settings = Callable[[Path, Path, torch.device], tuple[Objective, LoopSettings]]


def image_codec_emoji(data: Path, out: Path, device: torch.device) -> tuple[Objective, LoopSettings]:
    """The emoji model's image codec (1.9 M parameters)."""
    loop = LoopSettings(steps=1800, warmup=50, schedule="cosine", ema=0.998, eval_minutes=15, sample_minutes=5)
    return ImageCodecObjective(data, ImageCodecSettings(), device), loop


def context_encoders_emoji(data: Path, out: Path, device: torch.device) -> tuple[Objective, LoopSettings]:
    """The emoji model's context encoders (4 M parameters)."""
    loop = LoopSettings(steps=1500, warmup=40, ema=0.995, clip=None, eval_minutes=6, sample_minutes=12)
    recipe = ContextEncodersSettings(image={}, text={})
    return ContextEncodersObjective(data, out / "teacher", recipe, device), loop


SETTINGS: dict[str, dict[str, Settings]] = {
    "image-codec": {"emoji": image_codec_emoji},
    "context-encoders": {"emoji": context_encoders_emoji},
}
