"""The state of a run, and its part that checkpoints store."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from versatile_diffusion.training.engine.distributed import World, gather_tree, scatter
from versatile_diffusion.training.engine.posthoc_ema import PowerAverages


@dataclass
class RunState:
    """Everything that a run needs to resume. `window` sums the measurements since the last log entry; `counts` is their
    number, since not every step measures the same. `batches` is the number of batches per step over all processes;
    `reading` holds the bookmarks of the data by batch number."""

    module: nn.Module
    average: nn.Module
    optimizers: list[torch.optim.Optimizer]
    posthoc: PowerAverages
    batches: int = 1
    step: int = 0
    elapsed: float = 0.0
    window: dict[str, Tensor] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    reading: dict[int, Any] = field(default_factory=dict)

    @classmethod
    def fresh(
        cls,
        module: nn.Module,
        optimizers: Callable[[nn.Module], list[torch.optim.Optimizer]],
        average: nn.Module | None = None,
        posthoc: tuple[float, ...] = (),
        batches: int = 1,
    ) -> RunState:
        """The initial state; the base learning rates are stored as `initial_lr`."""
        average = copy.deepcopy(module) if average is None else average
        averages = PowerAverages(module, posthoc)
        state = cls(module, average.requires_grad_(False), optimizers(module), averages, batches)
        for optimizer in state.optimizers:
            for group in optimizer.param_groups:
                group["initial_lr"] = group["lr"]
        return state

    def measure(self, measured: dict[str, Tensor], times: int = 1) -> None:
        """Add measurements of one batch, or `times` means over several."""
        for name, value in measured.items():
            self._add(name, value.detach().float() * times, times)

    def _add(self, name: str, value: Tensor, times: int) -> None:
        self.window[name] = self.window[name] + value if name in self.window else value
        self.counts[name] = self.counts.get(name, 0) + times

    def advance(self, decay: float) -> None:
        """End a step: update the averages and the step counter."""
        self._average(min(decay, (1 + self.step) / (10 + self.step)))
        self.step += 1
        self.posthoc.update(self.module, self.step)

    def means(self, world: World) -> dict[str, float]:
        """Means since the last `clear` over all processes and measurements."""
        mine = {name: (float(total), self.counts[name]) for name, total in self.window.items()}
        everybody = world.gather(mine)
        names = list(dict.fromkeys(name for theirs in everybody for name in theirs))
        parts = {name: [theirs[name] for theirs in everybody if name in theirs] for name in names}
        return {name: sum(t for t, _ in found) / sum(n for _, n in found) for name, found in parts.items()}

    def clear(self) -> None:
        """Start the next log entry."""
        self.window, self.counts = {}, {}

    @torch.no_grad()
    def _average(self, decay: float) -> None:
        ours, theirs = self.average.state_dict(), self.module.state_dict()
        floating = [name for name, value in ours.items() if value.is_floating_point()]
        torch._foreach_lerp_([ours[n] for n in floating], [theirs[n] for n in floating], 1 - decay)
        for name in ours.keys() - set(floating):
            ours[name].copy_(theirs[name])

    def own(self) -> dict[str, Any]:
        """The separate state of this process."""
        window = {name: value.cpu() for name, value in self.window.items()}
        return {"window": window, "counts": self.counts, "reading": self.reading, **_random()}

    def content(self, identity: dict[str, Any], world: World) -> dict[str, Any]:
        """Content of a checkpoint, with unsharded tensors. All processes must call it; the first one gets it. The
        separate state of the other processes is in `others`, that of the first one at the top level."""
        first, *others = world.gather(self.own())
        shared = {
            "module": self.module.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "posthoc": self.posthoc.averages,
        }
        return {
            "identity": json.dumps(identity, sort_keys=True),
            **gather_tree(shared, keep=world.first),
            "step": self.step,
            "elapsed": self.elapsed,
            "batches": self.batches,
            **first,
            "others": others,
        }

    def load(self, path: Path, identity: dict[str, Any], world: World) -> None:
        """Resume from the checkpoint at `path`, whatever the number of processes that wrote it. A finished run may be
        extended by more steps.

        Raises:
            ValueError: the checkpoint belongs to another objective or other settings, or its batches cannot be divided
                among the processes.
        """
        content = torch.load(path, map_location="cpu", weights_only=True)
        told = {**content, "identity": json.loads(content["identity"])}
        self.accept(told, identity, world, path)
        _load_module(self.module, content["module"])
        _load_module(self.average, content["average"])
        for optimizer, saved in zip(self.optimizers, content["optimizers"], strict=True):
            _load_optimizer(optimizer, saved)
        self.posthoc.load(content.get("posthoc", []), scatter)
        self.take_over([content, *content.get("others", [])], world)

    def check(self, told: Mapping[str, Any], identity: Mapping[str, Any], world: World, where: object) -> None:
        """Check that this run may resume from a checkpoint.

        Raises:
            ValueError: as in `load`.
        """
        found, wanted = told["identity"], json.loads(json.dumps(identity, sort_keys=True))
        if found != wanted and not _longer(found, wanted, told["step"]):
            raise ValueError(
                f"the run of {where} has {_difference(found, wanted)}, but {_difference(wanted, found)} was requested: "
                "use the settings of the run, or another folder"
            )
        if (batches := told.get("batches", 1)) % world.size:
            raise ValueError(
                f"the run of {where} has {batches} batches per step, which cannot be divided among {world.size} "
                "processes; use a divisor of it"
            )

    def accept(self, told: Mapping[str, Any], identity: Mapping[str, Any], world: World, where: object) -> None:
        """Take over step and time of a checkpoint after `check`."""
        self.check(told, identity, world, where)
        self.step, self.elapsed, self.batches = told["step"], told["elapsed"], told.get("batches", 1)

    def take_over(self, processes: Sequence[Mapping[str, Any]], world: World) -> None:
        """Restore the separate state of the processes; with fewer processes, each takes over from several."""
        self.clear()
        self.reading = {number: mark for own in processes for number, mark in own.get("reading", {}).items()}
        device = next(self.module.parameters()).device
        for own in processes[world.rank :: world.size]:  # the processes whose batches this one takes over
            for name, value in own["window"].items():
                self._add(name, value.to(device), own["counts"][name])
        for own in processes[world.rank : world.rank + 1]:
            torch.set_rng_state(own["random"])
            if own["random_cuda"] and torch.cuda.is_available():
                torch.cuda.set_rng_state(own["random_cuda"][-1])


def _random() -> dict[str, Any]:
    cuda = [torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else []
    return {"random": torch.get_rng_state(), "random_cuda": cuda}


def _load_module(module: nn.Module, saved: dict[str, Tensor]) -> None:
    like = module.state_dict()
    module.load_state_dict({name: scatter(value, like.get(name, value)) for name, value in saved.items()})


def _load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any]) -> None:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    for number, values in saved["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                values[name] = scatter(value, parameters[number])
    optimizer.load_state_dict(saved)


def _longer(found: dict[str, Any], wanted: dict[str, Any], step: int) -> bool:
    """Whether the run with identity `found` is finished after `step` steps, and `wanted` only has more steps."""
    before, after = (identity.get("loop", {}).get("steps", 0) for identity in (found, wanted))
    given = {**found, "loop": {**found.get("loop", {}), "steps": after}}
    return step == before < after and given == wanted


def _difference(left: dict[str, Any], right: dict[str, Any]) -> dict[str, Any]:
    """The entries of `left` that are missing or different in `right`."""
    return {k: v for k, v in left.items() if k not in right or right[k] != v}
