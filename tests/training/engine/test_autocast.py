"""Mixed precision of a training step, on a CPU."""

from functools import partial

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from versatile_diffusion.layers.attention import ContextBlock
from versatile_diffusion.layers.autocast import GroupNorm, attend
from versatile_diffusion.layers.conv import ConvResidual
from versatile_diffusion.training.engine.autocast import autocast
from versatile_diffusion.training.engine.optimizer import orthogonalise

CPU = torch.device("cpu")


class Layers(nn.Module):
    """A data layer and a context layer, none of them at the identity."""

    def __init__(self):
        super().__init__()
        self.data = ConvResidual(32, 32, 64, norm_groups=8)
        self.context = ContextBlock(32, 24, heads=4, norm_groups=8)
        for weight in self.parameters():
            nn.init.normal_(weight, std=0.1)

    def forward(self, x, time, tokens):
        return self.context(self.data(x, time), tokens)


def gradients(enabled, again=False):
    """Of all weights; `again`: activations are not kept, and computed again in the backward pass."""
    torch.manual_seed(0)
    layers = Layers()
    x, time, tokens = torch.randn(4, 32, 8, 8), torch.randn(4, 64), torch.randn(4, 5, 24)
    run = partial(checkpoint, layers, use_reentrant=False) if again else layers
    with autocast(CPU, enabled):
        loss = run(x, time, tokens).float().square().mean()
    loss.backward()
    return torch.cat([weight.grad.flatten() for weight in layers.parameters()])


def test_products_are_in_bfloat16_and_what_a_cpu_is_slow_at_in_float32():
    x = torch.randn(2, 4, 8, 16)
    half = x.bfloat16()
    with autocast(CPU, True):
        assert F.linear(x, torch.randn(3, 16)).dtype == torch.bfloat16
        assert F.conv2d(x, torch.randn(3, 4, 1, 1)).dtype == torch.bfloat16
        assert attend(half, half, half).dtype == torch.float32
        assert GroupNorm(2, 4)(half).dtype == torch.float32
    with autocast(CPU, False):
        assert F.linear(x, torch.randn(3, 16)).dtype == torch.float32
    assert attend(half, half, half).dtype == torch.bfloat16
    assert torch.equal(attend(x, x, x), F.scaled_dot_product_attention(x, x, x))


def test_gradients_are_those_of_float32_but_for_rounding():
    exact, rounded = gradients(False), gradients(True)
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).norm() / exact.norm() < 0.02


def test_activations_that_are_not_kept_change_nothing():
    assert torch.equal(gradients(True, again=True), gradients(True))


def test_muon_orthogonalises_in_bfloat16_too():
    torch.manual_seed(0)
    matrix = torch.randn(48, 96)
    exact = orthogonalise(matrix)
    with autocast(CPU, True):
        rounded = orthogonalise(matrix)
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).norm() / exact.norm() < 0.03
