"""bfloat16 mixed precision of a training step."""

from __future__ import annotations

import torch

from versatile_diffusion.pipeline.precision import cpu_multiplies_bfloat16


def saves_time(device: torch.device) -> bool:
    """Whether a diffuser trains faster in bfloat16 on a device: a GPU, or a CPU with instructions for it."""
    return device.type == "cuda" or (device.type == "cpu" and cpu_multiplies_bfloat16())


def autocast(device: torch.device, enabled: bool) -> torch.autocast:
    """Compute products and convolutions in bfloat16; see also `layers/autocast.py`."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)
