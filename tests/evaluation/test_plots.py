"""Plots show their points."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from versatile_diffusion.evaluation.intervals import Measured
from versatile_diffusion.evaluation.plots import line_plot


def test_every_curve_has_its_points_and_a_name() -> None:
    curve = [(1.0, Measured(0.2, 0.1, 0.3, 9)), (4.0, Measured(0.6, 0.5, 0.7, 9))]
    root = ElementTree.fromstring(line_plot({"a < b": curve, "alone": curve[:1]}, "share", "guidance"))
    kind = "{http://www.w3.org/2000/svg}"
    texts = [element.text for element in root.iter(f"{kind}text")]
    assert {"a < b", "alone", "share", "guidance", "1", "4"} <= set(texts)
    heights = [float(dot.get("cy")) for dot in root.iter(f"{kind}circle")]
    assert len(heights) == 3
    assert heights[1] < heights[0] == heights[2]  # upwards is smaller


def test_long_curves_have_round_ticks_no_dots_and_dashed_marks() -> None:
    curve = [(x / 7, Measured(0.5, 0.5, 0.5, 1)) for x in range(100)]
    plot = line_plot({"loss": curve}, "loss", "steps", marks=[3, 9])
    assert plot.count("stroke-dasharray") == 2
    assert "<circle" not in plot
    assert "<polygon" not in plot  # there is no interval
    assert [f">{x}<" in plot for x in (0, 5, 10)] == [True] * 3
    assert f">{99 / 7:g}<" not in plot
    few = line_plot({"loss": [(0.064, curve[0][1]), (0.219429, curve[1][1])]}, "loss", "thousands of items")
    assert ">0.1<" in few
    assert ">0.219429<" not in few


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.0), (-3.0, 250.0), (0.011, 0.012)])
def test_ticks_reach_over_the_range(low: float, high: float) -> None:
    plot = line_plot({"x": [(1.0, Measured(low, low, high, 1))]}, "t", "x")
    lines = [float(part.split("H")[0].split()[1]) for part in plot.split('d="M')[1:]]
    assert 2 <= len(lines) <= 8
    assert lines == sorted(lines, reverse=True)
    with pytest.raises(ValueError, match="nothing to plot"):
        line_plot({}, "t", "x")
