"""Initialisation of layers."""

from __future__ import annotations

import math
from typing import TypeVar

from torch import nn

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d)


def zero_init(layer: Layer) -> Layer:
    """Zero the weight and bias of a layer: the last one of a residual branch, which then starts as the identity."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def keeping_size(layer: nn.Linear, gain: float = 1.0) -> nn.Linear:
    """Initialise a layer to preserve the scale of its input times `gain`; the default initialisation halves it."""
    nn.init.normal_(layer.weight, std=gain / math.sqrt(layer.in_features))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
