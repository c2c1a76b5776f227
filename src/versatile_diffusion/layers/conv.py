"""Data layers for latents on a grid [C, H, W] (paper section 3.2: residual blocks)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from versatile_diffusion.layers.autocast import GroupNorm
from versatile_diffusion.layers.init import zero_init
from versatile_diffusion.layers.plan import Stage

Grid = Float[Tensor, "b c h w"]
Same = Float[Tensor, "b c_out h w"]
Half = Float[Tensor, "b c h//2 w//2"]
Double = Float[Tensor, "b c 2*h 2*w"]
Time = Float[Tensor, "b time"]


class ConvStem(nn.Module):
    """Projection of latent channels to the first width."""

    def __init__(self, channels: int, wide: int):
        super().__init__()
        self.project = nn.Conv2d(channels, wide, 3, padding=1)

    def forward(self, x: Grid, time: Time) -> Same:
        return self.project(x)


class ConvResidual(nn.Module):
    """Twice norm, SiLU and convolution, with the time embedding added between. Initialised to the identity."""

    def __init__(self, wide_in: int, wide_out: int, time_width: int, norm_groups: int):
        super().__init__()
        self.norm1 = GroupNorm(norm_groups, wide_in)
        self.conv1 = nn.Conv2d(wide_in, wide_out, 3, padding=1)
        self.time = nn.Linear(time_width, wide_out)
        self.norm2 = GroupNorm(norm_groups, wide_out)
        self.conv2 = zero_init(nn.Conv2d(wide_out, wide_out, 3, padding=1))
        self.skip = nn.Identity() if wide_in == wide_out else nn.Conv2d(wide_in, wide_out, 1)

    def forward(self, x: Grid, time: Time) -> Same:
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.time(F.silu(time))[:, :, None, None]
        return self.skip(x) + self.conv2(F.silu(self.norm2(h)))


class ConvDown(nn.Module):
    """Downsampling by two."""

    def __init__(self, wide: int):
        super().__init__()
        self.down = nn.Conv2d(wide, wide, 3, stride=2, padding=1)

    def forward(self, x: Grid, time: Time) -> Half:
        if x.shape[2] % 2 or x.shape[3] % 2:
            raise ValueError(f"height and width must be even at every downsampling, got {tuple(x.shape[2:])}")
        return self.down(x)


class ConvUp(nn.Module):
    """Upsampling by two."""

    def __init__(self, wide: int):
        super().__init__()
        self.up = nn.Conv2d(wide, wide, 3, padding=1)

    def forward(self, x: Grid, time: Time) -> Double:
        return self.up(F.interpolate(x, scale_factor=2.0, mode="nearest"))


class ConvOut(nn.Module):
    """Projection of the first width to latent channels. Initialised to zero."""

    def __init__(self, wide: int, channels: int, norm_groups: int):
        super().__init__()
        self.norm = GroupNorm(norm_groups, wide)
        self.out = zero_init(nn.Conv2d(wide, channels, 3, padding=1))

    def forward(self, x: Grid, time: Time) -> Same:
        return self.out(F.silu(self.norm(x)))


def conv_layer(stage: Stage, *, channels: int, time_width: int, norm_groups: int) -> nn.Module:
    """Build the layer of a stage."""
    makers: Mapping[str, Callable[[], nn.Module]] = {
        "stem": lambda: ConvStem(channels, stage.wide_out),
        "residual": lambda: ConvResidual(stage.wide_in, stage.wide_out, time_width, norm_groups),
        "down": lambda: ConvDown(stage.wide_out),
        "up": lambda: ConvUp(stage.wide_out),
        "out": lambda: ConvOut(stage.wide_in, channels, norm_groups),
    }
    return makers[stage.kind]()
