"""Which flows are trained, how much of each, and with how many items."""

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
"""The paper's three settings (section 4.1), in their order, as presets: the tasks that are trained where no flows are
named. Each starts from the one before."""


def flow_names() -> tuple[str, ...]:
    """What a table by flow may name: a task, or all that generate a modality."""
    return (*TASKS, *dict.fromkeys(task.flow.data for task in TASKS.values()))


def single_flows() -> dict[str, Task]:
    """The tasks with one context, which training takes where nothing else is said."""
    return {name: task for name, task in TASKS.items() if len(task.flow.contexts) == 1}


@dataclass(frozen=True)
class Mixture:
    """The flows of a training.

    Args:
        weights: of each task. A joint step adds the losses of all flows with these weights before its one update; ones
            give the paper's plain sum. Otherwise they are whole numbers: how many steps of a round each flow gets.
        sizes: items per step, by task, or by the modality that is generated.
        joint: whether every step trains all flows (paper section 3.4), or each a single one.
        loss_weights: what a flow's loss is multiplied by in training, besides its weight in a joint step; by task, or
            by the modality that is generated; 1 where left out. Losses of texts are larger than those of pictures and
            would otherwise take over the layers that all flows share.

    Raises:
        ValueError: a weight is not a number above 0 (of steps: a whole one) or of nothing known, or a task has no size.
    """

    weights: Mapping[str, float]
    sizes: Mapping[str, int]
    joint: bool = False
    loss_weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.weights:
            raise ValueError(f"no flow is trained; allowed are {', '.join(TASKS)}")
        if bad := {name: w for name, w in self.weights.items() if not self._is_weight(w)}:
            kind = "numbers above 0" if self.joint else "whole numbers of steps above 0 (or take all flows jointly)"
            raise ValueError(f"mixture has {bad}; weights of flows must be {kind}")
        if missing := [task.name for task in self.tasks if not self.size(task)]:
            raise ValueError(f"batch has {dict(self.sizes)}, and nothing for {', '.join(missing)}")
        known = flow_names()
        if bad := {name: w for name, w in self.loss_weights.items() if name not in known or not 0 < w < math.inf}:
            raise ValueError(f"loss_weights has {bad}; allowed are numbers above 0, by {', '.join(known)}")

    def _is_weight(self, weight: float) -> bool:
        return 0 < weight < math.inf and (self.joint or weight % 1 == 0)

    @property
    def tasks(self) -> tuple[Task, ...]:
        return tuple(TASKS[name] for name in self.weights)

    @cached_property
    def turns(self) -> list[Task]:
        """A round of steps, each flow as often as its weight, spread evenly."""
        turns = [
            ((turn + 0.5) / share, order, name)
            for order, (name, share) in enumerate(self.weights.items())
            for turn in range(int(share))
        ]
        return [TASKS[name] for *_, name in sorted(turns)]

    def at(self, step: int) -> list[tuple[Task, float]]:
        """The tasks of a step, with the weights of their losses."""
        if self.joint:
            return [(task, self.weights[task.name] * self.loss_weight(task)) for task in self.tasks]
        task = self.turns[step % len(self.turns)]
        return [(task, self.loss_weight(task))]

    def wanted(self, step: int) -> list[tuple[Task, int]]:
        """The tasks of a step, with the sizes of their batches."""
        return [(task, self.size(task)) for task, _ in self.at(step)]

    def size(self, task: Task) -> int:
        """Items per step."""
        return int(by_flow(self.sizes, task, 0))

    def loss_weight(self, task: Task) -> float:
        """What its loss is multiplied by in training."""
        return by_flow(self.loss_weights, task, 1.0)

    def items(self, step: int) -> int:
        """Items of a step, over its flows."""
        return sum(self.size(task) for task, _ in self.at(step))


def by_flow(table: Mapping[str, Number], task: Task, default: Number) -> Number:
    """What a table says of a task, or else of the modality that it generates."""
    return table.get(task.name, table.get(task.flow.data, default))


def check_by_flow(name: str, table: Mapping[str, float], least: int, most: int, whole: bool = True) -> None:
    """Whether `by_flow` can read numbers from a table, `whole` ones or any.

    Raises:
        ValueError: a key is neither a task nor a modality that is generated, or a number is out of range.
    """
    kinds, known = (int,) if whole else (int, float), flow_names()
    if bad := {
        key: n for key, n in table.items() if key not in known or type(n) not in kinds or not least <= n <= most
    }:
        told = "whole numbers" if whole else "numbers"
        raise ValueError(f"{name} has {bad}; allowed are {told} from {least} to {most}, by {', '.join(known)}")
