"""The state of a run, and its checkpoint."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


@dataclass
class RunState:
    """All that a run needs to go on. `window` sums what was measured since the last line of the log; `counts` has the
    number of steps that measured it, since not every step measures the same."""

    module: nn.Module
    average: nn.Module
    optimizers: list[torch.optim.Optimizer]
    step: int = 0
    first_step: int = 0
    elapsed: float = 0.0
    window: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    @classmethod
    def fresh(cls, module: nn.Module, optimizers: Callable[[nn.Module], list[torch.optim.Optimizer]]) -> RunState:
        """The state before the first step; the learning rates given are remembered as `initial_lr`."""
        state = cls(module, copy.deepcopy(module).requires_grad_(False), optimizers(module))
        for optimizer in state.optimizers:
            for group in optimizer.param_groups:
                group["initial_lr"] = group["lr"]
        return state

    def count(self, measured: dict[str, Tensor], decay: float) -> None:
        """Ends a step: sums what was measured, moves the averaged model, counts."""
        for name, value in measured.items():
            value = value.detach().float()
            self.window[name] = self.window[name] + value if name in self.window else value
            self.counts[name] = self.counts.get(name, 0) + 1
        self._average(min(decay, (1 + self.step) / (10 + self.step)))
        self.step += 1

    def means(self) -> dict[str, float]:
        """Means since the last call, each over the steps that measured it."""
        means = {name: float(total) / self.counts[name] for name, total in self.window.items()}
        self.window, self.counts = {}, {}
        return means

    @torch.no_grad()
    def _average(self, decay: float) -> None:
        ours, theirs = self.average.state_dict(), self.module.state_dict()
        floating = [name for name, value in ours.items() if value.is_floating_point()]
        torch._foreach_lerp_([ours[n] for n in floating], [theirs[n] for n in floating], 1 - decay)
        for name in ours.keys() - set(floating):
            ours[name].copy_(theirs[name])


def save_state(path: Path, state: RunState, identity: dict[str, Any]) -> None:
    """Writes the checkpoint; an interrupted write leaves the one before."""
    content = {
        "identity": json.dumps(identity, sort_keys=True),
        "module": state.module.state_dict(),
        "average": state.average.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in state.optimizers],
        "step": state.step,
        "elapsed": state.elapsed,
        "window": state.window,
        "counts": state.counts,
        "random": torch.get_rng_state(),
        "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    temporary = path.with_suffix(".tmp")
    torch.save(content, temporary)
    os.replace(temporary, path)


def load_state(path: Path, state: RunState, identity: dict[str, Any]) -> None:
    """Fills `state` from the checkpoint, if there is one.

    Raises:
        ValueError: the checkpoint belongs to another objective or other settings.
    """
    if not path.exists():
        return
    device = next(state.module.parameters()).device
    content = torch.load(path, map_location=device, weights_only=True)
    found, wanted = json.loads(content["identity"]), json.loads(json.dumps(identity, sort_keys=True))
    if found != wanted:
        raise ValueError(
            f"the run in {path.parent} has {_difference(found, wanted)}, asked for {_difference(wanted, found)}: "
            "give the settings of the run, or another folder"
        )
    state.module.load_state_dict(content["module"])
    state.average.load_state_dict(content["average"])
    for optimizer, saved in zip(state.optimizers, content["optimizers"], strict=True):
        optimizer.load_state_dict(saved)
    state.step = state.first_step = content["step"]
    state.elapsed = content["elapsed"]
    state.window, state.counts = content["window"], content["counts"]
    torch.set_rng_state(content["random"].cpu())
    if content["random_cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([random.cpu() for random in content["random_cuda"]])


def _difference(left: dict[str, Any], right: dict[str, Any]) -> dict[str, Any]:
    """The entries of `left` that `right` has not, or otherwise."""
    return {k: v for k, v in left.items() if k not in right or right[k] != v}
