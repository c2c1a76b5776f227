"""The mixture of flows to train: their weights and batch sizes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

from versatile_diffusion.tasks import TASKS, Task

Number = TypeVar("Number", int, float)
STAGES = {
    "basic": ("image-variation",),
    "dual_context": ("text-to-image", "image-variation"),
    "official": ("text-to-image", "image-variation", "image-to-text", "text-variation"),
}
"""The paper's three settings (section 4.1) in order: the tasks to train if no flows are given. Each starts from the
previous one."""


def flow_names() -> tuple[str, ...]:
    """Valid keys of a table by flow: tasks, and modalities for all tasks that generate them."""
    return (*TASKS, *dict.fromkeys(task.flow.data for task in TASKS.values()))


def single_flows() -> dict[str, Task]:
    """The tasks with one context, which are trained by default."""
    return {name: task for name, task in TASKS.items() if len(task.flow.contexts) == 1}


@dataclass(frozen=True)
class Mixture:
    """The flows to train.

    Args:
        weights: by task. A joint step sums the losses of all flows with these weights before its update; weights of 1
            give the paper's sum. Otherwise they are integers: the number of steps of each flow per cycle.
        sizes: items per step, by task or by generated modality.
        joint: whether every step trains all flows (paper section 3.4), or a single one.
        loss_weights: factor of a flow's loss, in addition to its weight in a joint step; by task or by generated
            modality; default 1. Losses of texts are larger than those of images and would otherwise dominate the layers
            that all flows share.

    Raises:
        ValueError: a weight is not a number above 0 (an integer unless joint), a name is unknown, or a task has no
            size.
    """

    weights: Mapping[str, float]
    sizes: Mapping[str, int]
    joint: bool = False
    loss_weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.weights:
            raise ValueError(f"no flow to train; allowed: {', '.join(TASKS)}")
        if bad := {name: w for name, w in self.weights.items() if not self._is_weight(w)}:
            kind = "numbers above 0" if self.joint else "integers above 0 (any number above 0 with joint training)"
            raise ValueError(f"mixture has {bad}; weights of flows must be {kind}")
        if missing := [task.name for task in self.tasks if not self.size(task)]:
            raise ValueError(f"batch has {dict(self.sizes)}, but no size for {', '.join(missing)}")
        known = flow_names()
        if bad := {name: w for name, w in self.loss_weights.items() if name not in known or not 0 < w < math.inf}:
            raise ValueError(f"loss_weights has {bad}; allowed: numbers above 0, by {', '.join(known)}")

    def _is_weight(self, weight: float) -> bool:
        return 0 < weight < math.inf and (self.joint or weight % 1 == 0)

    @property
    def tasks(self) -> tuple[Task, ...]:
        return tuple(TASKS[name] for name in self.weights)

    @cached_property
    def turns(self) -> list[Task]:
        """A cycle of steps: each flow as often as its weight, evenly spread."""
        turns = [
            ((turn + 0.5) / share, order, name)
            for order, (name, share) in enumerate(self.weights.items())
            for turn in range(int(share))
        ]
        return [TASKS[name] for *_, name in sorted(turns)]

    def at(self, step: int) -> list[tuple[Task, float]]:
        """The tasks of a step, with their loss weights."""
        if self.joint:
            return [(task, self.weights[task.name] * self.loss_weight(task)) for task in self.tasks]
        task = self.turns[step % len(self.turns)]
        return [(task, self.loss_weight(task))]

    def wanted(self, step: int) -> list[tuple[Task, int]]:
        """The tasks of a step, with their batch sizes."""
        return [(task, self.size(task)) for task, _ in self.at(step)]

    def size(self, task: Task) -> int:
        """Batch size of a task."""
        return int(by_flow(self.sizes, task, 0))

    def loss_weight(self, task: Task) -> float:
        """Loss weight of a task."""
        return by_flow(self.loss_weights, task, 1.0)

    def items(self, step: int) -> int:
        """Number of items in a step over all its flows."""
        return sum(self.size(task) for task, _ in self.at(step))


def by_flow(table: Mapping[str, Number], task: Task, default: Number) -> Number:
    """Look up a task in a table, then the modality that it generates."""
    return table.get(task.name, table.get(task.flow.data, default))


def check_by_flow(name: str, table: Mapping[str, float], least: int, most: int, whole: bool = True) -> None:
    """Check a table for `by_flow` whose values are numbers, or integers if `whole`.

    Raises:
        ValueError: a key is neither a task nor a generated modality, or a number is out of range.
    """
    kinds, known = (int,) if whole else (int, float), flow_names()
    if bad := {
        key: n for key, n in table.items() if key not in known or type(n) not in kinds or not least <= n <= most
    }:
        kind = "integers" if whole else "numbers"
        raise ValueError(f"{name} has {bad}; allowed: {kind} from {least} to {most}, by {', '.join(known)}")
