"""Time embedding: the global layers, shared by all flows."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn


def sinusoid(timestep: Shaped[Tensor, " b"], width: int, longest: float = 10_000.0) -> Float[Tensor, "b width"]:
    """Return the sinusoidal embedding of timesteps, `width / 2` cosines then sines, in float32."""
    half = width // 2
    steps = torch.arange(half, dtype=torch.float32, device=timestep.device)
    angles = timestep.float()[:, None] * torch.exp(-math.log(longest) / half * steps)
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TimestepEmbedding(nn.Module):
    """Embedding of timesteps (B,) as vectors (B, 4 * width) for the residual blocks."""

    def __init__(self, width: int):
        super().__init__()
        self.width = width
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width))

    def forward(self, timestep: Shaped[Tensor, " b"]) -> Float[Tensor, "b time"]:
        return self.mlp(sinusoid(timestep, self.width).to(next(self.mlp.parameters()).dtype))
