"""Fingerprints of weights that are not plain tensors, such as torchao's quantised ones."""

import torch
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor

from versatile_diffusion.records.record import Fingerprints, fingerprint


def quantised(scale: float) -> nn.Module:
    """A layer whose weight is made of two tensors, of which only the second is told by `scale`."""
    layer = nn.Linear(4, 3)
    nn.init.zeros_(layer.bias)
    layer.weight = nn.Parameter(TwoTensor(torch.ones(3, 4), torch.full((3, 4), scale)))
    return layer


def test_every_tensor_of_a_quantised_weight_counts() -> None:
    assert fingerprint(quantised(0.5)) == fingerprint(quantised(0.5)) != fingerprint(quantised(0.25))


def test_a_changed_scale_is_noticed() -> None:
    layer, known = quantised(0.5), Fingerprints()
    before = known.of(layer)
    assert before == known.of(layer) == fingerprint(layer)
    layer.weight.data.b.fill_(0.25)
    assert known.of(layer) == fingerprint(quantised(0.25)) != before
