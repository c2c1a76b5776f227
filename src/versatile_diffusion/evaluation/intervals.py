"""Confidence intervals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Statistic = Callable[[np.ndarray], float]
"""Statistic of the rows (first axis) of a sample."""


@dataclass(frozen=True)
class Measured:
    """A metric over `count` items with its 95 % confidence interval.

    Args:
        value: None if there are too few items.
        low, high: bounds of the interval; None if unknown.
        remark: note on the value, e.g. too few items.
    """

    value: float | None
    low: float | None
    high: float | None
    count: int
    remark: str = ""

    @property
    def number(self) -> str:
        return "" if self.value is None else f"{self.value:.3g}"

    @property
    def interval(self) -> str:
        return "" if self.low is None else f"[{self.low:.3g}, {self.high:.3g}]"

    @property
    def brief(self) -> str:
        """The value without its interval."""
        return f"{self.number} ({self.remark})" if self.number and self.remark else self.number or self.remark

    def __str__(self) -> str:
        remark = f"({self.remark})" if self.remark and self.number else self.remark
        return " ".join(part for part in (self.number, self.interval, remark) if part)


PARTS = 20
"""Number of groups of the jackknife."""
TOO_FEW, ONE = "too few", "one item"


def alone(value: float) -> Measured:
    """Return the value of a single item, without interval."""
    return Measured(value, None, None, 1, ONE)


def mean(rows: np.ndarray) -> float:
    """Return the mean of all entries."""
    return float(np.mean(rows))


def bootstrap(rows: np.ndarray, statistic: Statistic = mean, resamples: int = 500, seed: int = 0) -> Measured:
    """Compute a statistic and its 95 % percentile bootstrap interval (Efron 1979)."""
    if len(rows) < 2:
        return alone(statistic(rows))
    source = np.random.default_rng(seed)
    drawn = [statistic(rows[source.integers(len(rows), size=len(rows))]) for _ in range(resamples)]
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Measured(statistic(rows), float(low), float(high), len(rows))


def jackknife(rows: np.ndarray, statistic: Statistic, parts: int = PARTS) -> Measured:
    """Compute a statistic and its interval of 1.96 standard errors, leaving out each of `parts` groups.

    For statistics that are biased by a bootstrap's duplicates, e.g. distances between sets.
    """
    parts = min(parts, len(rows))
    value = statistic(rows)
    if parts < 2:
        return alone(value)
    part = np.arange(len(rows)) % parts
    without = np.array([statistic(rows[part != k]) for k in range(parts)])
    error = float(np.sqrt((parts - 1) * np.mean((without - without.mean()) ** 2)))
    return Measured(value, value - 1.96 * error, value + 1.96 * error, len(rows))
