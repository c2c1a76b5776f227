"""Functions that stay in float32 where autocast to bfloat16 runs on a CPU, which is faster at them in float32.

In bfloat16 the backward pass of attention takes seven times as long, and group norm five times (torch 2.13, see
docs/log.md). Without autocast these are torch's own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def _slow(x: Tensor) -> bool:
    return x.dtype == torch.bfloat16 and x.device.type == "cpu" and torch.is_autocast_enabled("cpu")


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Scaled dot-product attention."""
    if not _slow(query):
        return F.scaled_dot_product_attention(query, key, value)
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(query.float(), key.float(), value.float())


class GroupNorm(nn.GroupNorm):
    """Group norm; in float32 where bfloat16 is slow."""

    def forward(self, x: Tensor) -> Tensor:
        if not _slow(x):
            return super().forward(x)
        return F.group_norm(x.float(), self.num_groups, self.weight.float(), self.bias.float(), self.eps)
