"""Data layers for vector latents (paper section 3.2: FC residual blocks).

Inside the stream a latent is [C, L, 1]: L positions with C channels, so that context blocks see L tokens. Data layers
mix all C * L values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from versatile_diffusion.layers.init import keeping_size, zero_init
from versatile_diffusion.layers.plan import Stage
from versatile_diffusion.layers.wide import WideGroupNorm, WideLinear, apply_widened

Vector = Float[Tensor, "b width"]
Rows = Float[Tensor, "b c l 1"]
RowsOut = Float[Tensor, "b c_out l 1"]
VectorOut = Float[Tensor, "b width_out"]
Time = Float[Tensor, "b time"]


class FCStem(nn.Module):
    """Projection of a latent vector to the first width, initially scaled by `gain`."""

    def __init__(self, width: int, wide: int, positions: int, gain: float = 1.0):
        super().__init__()
        self.positions = positions
        self.project = keeping_size(nn.Linear(width, wide * positions), gain)

    def forward(self, x: Vector, time: Time) -> RowsOut:
        return rearrange(apply_widened(self.project, x), "b (c l) -> b c l 1", l=self.positions)


class FCResidual(nn.Module):
    """Twice norm, SiLU and dense layer, with the time embedding added between. Initialised to the identity."""

    def __init__(self, wide_in: int, wide_out: int, positions: int, time_width: int, norm_groups: int):
        super().__init__()
        full_in, full_out = wide_in * positions, wide_out * positions
        self.positions = positions
        self.norm1 = WideGroupNorm(norm_groups, full_in)
        self.linear1 = nn.Linear(full_in, full_out)
        self.time = nn.Linear(time_width, full_out)
        self.norm2 = nn.GroupNorm(norm_groups, full_out)
        self.linear2 = zero_init(nn.Linear(full_out, full_out))
        self.skip = nn.Identity() if wide_in == wide_out else keeping_size(WideLinear(full_in, full_out))

    def forward(self, x: Rows, time: Time) -> RowsOut:
        x = rearrange(x, "b c l 1 -> b (c l)")
        h = self.linear1(F.silu(self.norm1(x)))
        h = h + self.time(F.silu(time))
        h = self.skip(x) + self.linear2(F.silu(self.norm2(h)))
        return rearrange(h, "b (c l) -> b c l 1", l=self.positions)


class FCResample(nn.Module):
    """Counterpart of a grid's resampling: a dense layer of constant size."""

    def __init__(self, wide: int, positions: int):
        super().__init__()
        self.positions = positions
        self.project = keeping_size(WideLinear(wide * positions, wide * positions))

    def forward(self, x: Rows, time: Time) -> RowsOut:
        h = self.project(rearrange(x, "b c l 1 -> b (c l)"))
        return rearrange(h, "b (c l) -> b c l 1", l=self.positions)


class FCOut(nn.Module):
    """Projection of the first width to a latent vector. Initialised to zero."""

    def __init__(self, wide: int, width: int, positions: int, norm_groups: int):
        super().__init__()
        self.norm = WideGroupNorm(norm_groups, wide)
        self.out = zero_init(nn.Linear(wide * positions, width))

    def forward(self, x: Rows, time: Time) -> VectorOut:
        return self.out(rearrange(F.silu(self.norm(x)), "b c l 1 -> b (c l)"))


def fc_layer(
    stage: Stage, *, width: int, positions: int, time_width: int, norm_groups: int, gain: float = 1.0
) -> nn.Module:
    """Build the layer of a stage."""
    makers: Mapping[str, Callable[[], nn.Module]] = {
        "stem": lambda: FCStem(width, stage.wide_out, positions, gain),
        "residual": lambda: FCResidual(stage.wide_in, stage.wide_out, positions, time_width, norm_groups),
        "down": lambda: FCResample(stage.wide_out, positions),
        "up": lambda: FCResample(stage.wide_out, positions),
        "out": lambda: FCOut(stage.wide_in, width, positions, norm_groups),
    }
    return makers[stage.kind]()
