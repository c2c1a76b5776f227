"""Data layers for latents that are one vector (paper section 3.2: FC residual blocks).

Inside the stream a latent is [C, L, 1]: L positions of C channels, so that context blocks see L tokens. Data layers
mix all C * L numbers at once.
"""

from __future__ import annotations

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from versatile_diffusion.layers.init import keeping_size, zeroed
from versatile_diffusion.layers.plan import Stage

Vector = Float[Tensor, "b width"]
Rows = Float[Tensor, "b c l 1"]
RowsOut = Float[Tensor, "b c_out l 1"]
VectorOut = Float[Tensor, "b width_out"]
Time = Float[Tensor, "b time"]


class FCStem(nn.Module):
    """A latent vector to the first width, at the start `gain` times as large."""

    def __init__(self, width: int, wide: int, positions: int, gain: float = 1.0):
        super().__init__()
        self.positions = positions
        self.project = keeping_size(nn.Linear(width, wide * positions), gain)

    def forward(self, x: Vector, time: Time) -> RowsOut:
        return rearrange(self.project(x), "b (c l) -> b c l 1", l=self.positions)


class FCResidual(nn.Module):
    """Norm, SiLU and full linear map twice, with the time embedding added between. Starts as the identity."""

    def __init__(self, wide_in: int, wide_out: int, positions: int, time_width: int, norm_groups: int):
        super().__init__()
        full_in, full_out = wide_in * positions, wide_out * positions
        self.positions = positions
        self.norm1 = nn.GroupNorm(norm_groups, full_in)
        self.linear1 = nn.Linear(full_in, full_out)
        self.time = nn.Linear(time_width, full_out)
        self.norm2 = nn.GroupNorm(norm_groups, full_out)
        self.linear2 = zeroed(nn.Linear(full_out, full_out))
        self.skip = nn.Identity() if wide_in == wide_out else keeping_size(nn.Linear(full_in, full_out))

    def forward(self, x: Rows, time: Time) -> RowsOut:
        x = rearrange(x, "b c l 1 -> b (c l)")
        h = self.linear1(F.silu(self.norm1(x)))
        h = h + self.time(F.silu(time))
        h = self.skip(x) + self.linear2(F.silu(self.norm2(h)))
        return rearrange(h, "b (c l) -> b c l 1", l=self.positions)


class FCResample(nn.Module):
    """Stands where a grid changes its size: a full linear map, at the same size."""

    def __init__(self, wide: int, positions: int):
        super().__init__()
        self.positions = positions
        self.project = keeping_size(nn.Linear(wide * positions, wide * positions))

    def forward(self, x: Rows, time: Time) -> RowsOut:
        h = self.project(rearrange(x, "b c l 1 -> b (c l)"))
        return rearrange(h, "b (c l) -> b c l 1", l=self.positions)


class FCOut(nn.Module):
    """The first width back to a latent vector. Starts at zero."""

    def __init__(self, wide: int, width: int, positions: int, norm_groups: int):
        super().__init__()
        self.norm = nn.GroupNorm(norm_groups, wide)
        self.out = zeroed(nn.Linear(wide * positions, width))

    def forward(self, x: Rows, time: Time) -> VectorOut:
        return self.out(rearrange(F.silu(self.norm(x)), "b c l 1 -> b (c l)"))


def fc_layer(
    stage: Stage, *, width: int, positions: int, time_width: int, norm_groups: int, gain: float = 1.0
) -> nn.Module:
    """The layer that a stage of the plan asks for."""
    makers = {
        "stem": lambda: FCStem(width, stage.wide_out, positions, gain),
        "residual": lambda: FCResidual(stage.wide_in, stage.wide_out, positions, time_width, norm_groups),
        "down": lambda: FCResample(stage.wide_out, positions),
        "up": lambda: FCResample(stage.wide_out, positions),
        "out": lambda: FCOut(stage.wide_in, width, positions, norm_groups),
    }
    return makers[stage.kind]()
