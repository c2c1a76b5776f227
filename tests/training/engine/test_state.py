"""The state of a run."""

from __future__ import annotations

import torch
from torch import nn

from versatile_diffusion.training.engine.distributed import World
from versatile_diffusion.training.engine.state import RunState


def test_means_are_over_the_steps_that_measured_something() -> None:
    state = RunState.fresh(nn.Linear(1, 1), lambda module: [torch.optim.AdamW(module.parameters())])
    state.measure({"loss": torch.tensor(1.0), "a": torch.tensor(4.0)})
    state.advance(decay=0.9)
    state.measure({"loss": torch.tensor(3.0), "b": torch.tensor(6.0)})
    assert state.means(World()) == {"loss": 2.0, "a": 4.0, "b": 6.0}
    assert state.step == 1
    state.clear()
    assert state.means(World()) == {}
