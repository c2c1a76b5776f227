"""Comparison of models per flow: does a multi-flow model match single-flow models (paper section 4.2)?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from versatile_diffusion.evaluation.intervals import Measured
from versatile_diffusion.evaluation.results import Result, check_comparable
from versatile_diffusion.tasks import TASKS

COMPARED = (
    *("judge/concept top-1", "judge/concept top-5", "judge/style"),
    *("encoders/concept top-5", "encoders/style", "agreement/text", "agreement/image"),
    *("text/label", "text/label or synonym", "text/CIDEr-D", "text/differs"),
)
"""Metrics to compare, besides the FID of every network."""
LESS_IS_BETTER = ("fid", "kid", "cmmd")


@dataclass(frozen=True)
class Pair:
    """A metric of one task, for this model and another."""

    split: str
    task: str
    metric: str
    mine: Measured
    theirs: Measured
    other: str

    @property
    def share(self) -> float | None:
        """Ratio of this model's value to the other's; above 1 it is better. None if undefined (a zero or negative
        value)."""
        better, than = self.mine.value, self.theirs.value
        if better is None or than is None:
            return None
        if self.metric.endswith(LESS_IS_BETTER):
            better, than = than, better
        return better / than if better >= 0 and than > 0 else None

    def cells(self) -> tuple[str, ...]:
        """Format as a table row."""
        share = "-" if self.share is None else f"{100 * self.share:.0f} %"
        return self.task, self.metric, str(self.mine), str(self.theirs), share, self.other


HEAD = ("flow", "metric", "this model", "the other", "share", "the other model")


def pairs(result: Result, others: Sequence[Result]) -> Iterator[Pair]:
    """Yield the common metrics of a model and each other model.

    Raises:
        ValueError: measured under different protocols.
    """
    check_comparable([result, *others])
    for split, table in result.tables.items():
        for task in (task for task in TASKS if task in table):
            for other in others:
                theirs = other.tables.get(split, {}).get(task, {})
                for metric in (name for name in table[task] if name in theirs and is_chosen(name, COMPARED)):
                    name = other.model["name"]
                    yield Pair(split, task, metric, table[task][metric], theirs[metric], name)


def is_chosen(metric: str, names: Sequence[str]) -> bool:
    """Return whether a metric is one of those named, or an FID."""
    return metric in names or metric.endswith("/fid")
