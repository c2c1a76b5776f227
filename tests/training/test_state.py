"""The state of a run."""

from __future__ import annotations

import torch
from torch import nn

from versatile_diffusion.training.state import RunState


def test_means_are_over_the_steps_that_measured_something() -> None:
    state = RunState.fresh(nn.Linear(1, 1), lambda module: [torch.optim.AdamW(module.parameters())])
    state.count({"loss": torch.tensor(1.0), "a": torch.tensor(4.0)}, decay=0.9)
    state.count({"loss": torch.tensor(3.0), "b": torch.tensor(6.0)}, decay=0.9)
    assert state.means() == {"loss": 2.0, "a": 4.0, "b": 6.0}
    assert state.means() == {}
