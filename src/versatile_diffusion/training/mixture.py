"""Which flows are trained, how much of each, and with how many items."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from versatile_diffusion.tasks import TASKS, Task

STAGES = {
    "basic": ("image-variation",),
    "dual_context": ("text-to-image", "image-variation"),
    "official": ("text-to-image", "image-variation", "image-to-text", "text-variation"),
}
"""The paper's three settings (section 4.1), in their order: the tasks trained. Each starts from the one before."""


@dataclass(frozen=True)
class Mixture:
    """The flows of a training.

    Args:
        weights: of each task. A joint step adds the losses of all flows with these weights before its one update; ones
            give the paper's plain sum. Otherwise they are whole numbers: how many steps of a round each flow gets.
        sizes: items per step, by task, or by the modality that is generated.
        joint: whether every step trains all flows (paper section 3.4), or each a single one.

    Raises:
        ValueError: a weight is not a number above 0 (of steps: a whole one), or a task has no size.
    """

    weights: Mapping[str, float]
    sizes: Mapping[str, int]
    joint: bool = False

    def __post_init__(self) -> None:
        if not self.weights:
            raise ValueError(f"no flow is trained; allowed are {', '.join(TASKS)}")
        if bad := {name: w for name, w in self.weights.items() if not self._is_weight(w)}:
            kind = "numbers above 0" if self.joint else "whole numbers of steps above 0 (or take all flows jointly)"
            raise ValueError(f"weights of the flows are {bad}; they must be {kind}")
        if missing := [t.name for t in self.tasks if t.name not in self.sizes and t.flow.data not in self.sizes]:
            raise ValueError(f"batch has {dict(self.sizes)}, and nothing for {', '.join(missing)}")

    def _is_weight(self, weight: float) -> bool:
        return 0 < weight < float("inf") and (self.joint or weight % 1 == 0)

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
            return [(TASKS[name], float(weight)) for name, weight in self.weights.items()]
        return [(self.turns[step % len(self.turns)], 1.0)]

    def size(self, task: Task) -> int:
        """Items per step."""
        return self.sizes.get(task.name, self.sizes.get(task.flow.data, 0))

    @property
    def items(self) -> int:
        """Items per step, at most."""
        sizes = [self.size(task) for task in self.tasks]
        return sum(sizes) if self.joint else max(sizes)
