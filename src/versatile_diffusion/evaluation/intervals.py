"""How sure a measured number is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Statistic = Callable[[np.ndarray], float]
"""Rows of a sample (its first axis) to a number."""


@dataclass(frozen=True)
class Measured:
    """A number from `count` items, and between which two others it lies in 95 of 100 cases."""

    value: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        return f"{self.value:.3g} [{self.low:.3g}, {self.high:.3g}]"


def mean(rows: np.ndarray) -> float:
    """Of all entries."""
    return float(np.mean(rows))


def bootstrap(rows: np.ndarray, statistic: Statistic = mean, resamples: int = 500, seed: int = 0) -> Measured:
    """The statistic, and the middle 95 % of it over samples of the same size drawn with replacement (Efron 1979)."""
    source = np.random.default_rng(seed)
    drawn = [statistic(rows[source.integers(len(rows), size=len(rows))]) for _ in range(resamples)]
    low, high = np.percentile(drawn, (2.5, 97.5))
    return Measured(statistic(rows), float(low), float(high), len(rows))


def jackknife(rows: np.ndarray, statistic: Statistic, parts: int = 20) -> Measured:
    """The statistic, and 1.96 standard errors to both sides from leaving out each of `parts` parts.

    For statistics that the duplicates in a bootstrap's samples would shift, such as distances between sets.
    """
    parts = min(parts, len(rows))
    value = statistic(rows)
    if parts < 2:
        return Measured(value, value, value, len(rows))
    part = np.arange(len(rows)) % parts
    without = np.array([statistic(rows[part != k]) for k in range(parts)])
    error = float(np.sqrt((parts - 1) * np.mean((without - without.mean()) ** 2)))
    return Measured(value, value - 1.96 * error, value + 1.96 * error, len(rows))
