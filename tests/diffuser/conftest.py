"""A tiny diffuser, all of whose weights are random (fresh ones start as the identity, which hides mistakes)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from versatile_diffusion.diffuser.context import Context
from versatile_diffusion.diffuser.unet import MultiFlowUNet

SHAPES = {"image": (4, 8, 8), "text": (24,)}
TOKENS = {"image": 5, "text": 7}


def tiny(**changes: object) -> MultiFlowUNet:
    options = {
        "data_streams": {"image": {"channels": 4}, "text": {"width": 24}},
        "context_streams": {"image": {"width": 12}, "text": {"width": 20}},
        "width": 16,
        "multipliers": [1, 2],
        "depth": 1,
        "attends": [True, True],
        "heads": 2,
        "norm_groups": 4,
    }
    return MultiFlowUNet(**(options | changes))


def randomised(unet: MultiFlowUNet, seed: int = 0) -> MultiFlowUNet:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return unet


@pytest.fixture(scope="session")
def unet() -> MultiFlowUNet:
    return randomised(tiny()).eval().requires_grad_(False)


@pytest.fixture
def latent() -> Callable[..., torch.Tensor]:
    return lambda data, batch=2, seed=1: torch.randn(
        batch, *SHAPES[data], generator=torch.Generator().manual_seed(seed)
    )


@pytest.fixture
def context() -> Callable[..., Context]:
    def make(stream: str, weight: float = 1.0, batch: int = 2, seed: int = 2) -> Context:
        shape = (batch, TOKENS[stream], {"image": 12, "text": 20}[stream])
        return Context(stream, torch.randn(shape, generator=torch.Generator().manual_seed(seed)), weight)

    return make
