"""Layers whose input has a wider dtype than their weights.

The hidden state of a vector stream grows from stage to stage beyond the range of float16 (65504). With half precision
weights it therefore stays in float32 from the stem on; branches are normalised and return to half precision.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from versatile_diffusion.layers.autocast import GroupNorm


def _wider(x: Tensor, weight: Tensor) -> bool:
    return x.dtype.itemsize > weight.dtype.itemsize


class WideGroupNorm(GroupNorm):
    """GroupNorm in the input's dtype that returns the weights' dtype."""

    def forward(self, x: Tensor) -> Tensor:
        if not _wider(x, self.weight):
            return super().forward(x)
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        return F.group_norm(x, self.num_groups, weight, bias, self.eps).to(self.weight.dtype)


class WideLinear(nn.Linear):
    """Linear layer that computes in and returns the input's dtype."""

    def forward(self, x: Tensor) -> Tensor:
        if not _wider(x, self.weight):
            return super().forward(x)
        return F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


def apply_widened(layer: nn.Linear, x: Tensor) -> Tensor:
    """Apply a layer, in float32 if its weights are in half precision."""
    return layer(x).float() if layer.weight.dtype.itemsize < 4 else layer(x)
