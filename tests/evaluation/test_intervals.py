"""Intervals hold what they should."""

from __future__ import annotations

import numpy as np
import pytest

from versatile_diffusion.evaluation.intervals import TOO_FEW, Measured, bootstrap, jackknife, mean


@pytest.mark.parametrize("interval", [bootstrap, lambda rows: jackknife(rows, mean)])
def test_it_holds_the_true_mean_in_about_95_of_100_samples(interval) -> None:
    source = np.random.default_rng(0)
    found = [interval(source.normal(3.0, 1.0, size=60)) for _ in range(100)]
    assert 86 <= sum(one.low <= 3.0 <= one.high for one in found) <= 100
    assert np.mean([one.high - one.low for one in found]) == pytest.approx(2 * 1.96 / 60**0.5, rel=0.15)
    assert all(one.low <= one.value <= one.high and one.count == 60 for one in found)


def test_the_same_seed_gives_the_same_interval() -> None:
    rows = np.arange(10.0)
    assert bootstrap(rows) == bootstrap(rows)
    assert bootstrap(rows, seed=1) != bootstrap(rows)
    assert bootstrap(np.ones(5)).low == bootstrap(np.ones(5)).high == 1


@pytest.mark.parametrize("interval", [bootstrap, lambda rows: jackknife(rows, mean)])
def test_a_single_row_says_nothing_of_how_sure_it_is(interval) -> None:
    alone = interval(np.array([2.0]))
    assert (alone.value, alone.low, alone.high, alone.count) == (2, None, None, 1)
    assert (str(alone), alone.brief) == ("2 (one item)", "2 (one item)")


def test_how_a_number_is_written() -> None:
    assert str(Measured(0.5, 0.25, 0.75, 9)) == "0.5 [0.25, 0.75]"
    assert str(Measured(0.5, 0.25, 0.75, 9, TOO_FEW)) == "0.5 [0.25, 0.75] (too few)"
    assert str(Measured(None, None, None, 1, TOO_FEW)) == Measured(None, None, None, 1, TOO_FEW).brief == "too few"
