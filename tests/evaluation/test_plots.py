"""Plots show their points: read back from the files that are written."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from versatile_diffusion.evaluation.intervals import Measured
from versatile_diffusion.evaluation.plots import MOST_DOTS, line_plot

SVG = "{http://www.w3.org/2000/svg}"


def written(folder: Path, plot: str) -> ElementTree.Element:
    """The root of a plot, from a file as reports have it."""
    (folder / "plot.svg").write_text(plot, encoding="utf-8")
    return ElementTree.parse(folder / "plot.svg").getroot()


def texts(root: ElementTree.Element) -> set[str]:
    return {"".join(element.itertext()).strip() for element in root.iter(f"{SVG}text")}


def group(root: ElementTree.Element, name: str) -> ElementTree.Element:
    return next(element for element in root.iter(f"{SVG}g") if element.get("id") == name)


def dots(root: ElementTree.Element, name: str) -> list[tuple[float, float]]:
    """Where the markers of a curve are, in the file's coordinates (y grows downwards)."""
    return [
        (float(one.get("x", "")), float(one.get("y", ""))) for one in group(root, f"curve-{name}").iter(f"{SVG}use")
    ]


def test_every_curve_has_its_points_and_a_name(tmp_path: Path) -> None:
    curve = [(1.0, Measured(0.2, 0.1, 0.3, 9)), (2.0, Measured(0.3, 0.2, 0.4, 9)), (4.0, Measured(0.6, 0.5, 0.7, 9))]
    root = written(tmp_path, line_plot({"a < b": curve, "alone": curve[:1]}, "share", "guidance"))
    assert {"a < b", "alone", "share", "guidance", "1", "2", "4"} <= texts(root)
    (x1, y1), (x2, y2), (x4, y4) = dots(root, "a < b")
    assert (x4 - x2) / (x2 - x1) == pytest.approx(2, rel=1e-4)  # both axes are linear
    assert (y2 - y4) / (y1 - y2) == pytest.approx(3, rel=1e-4)
    assert dots(root, "alone") == [(x1, y1)]
    assert group(root, "interval-a < b") is not None


def test_equal_plots_are_equal_files() -> None:
    curve = [(1.0, Measured(0.2, 0.1, 0.3, 9)), (4.0, Measured(0.6, 0.5, 0.7, 9))]
    assert line_plot({"a": curve}, "share", "x") == line_plot({"a": curve}, "share", "x")


def test_long_curves_have_round_ticks_no_dots_and_dashed_marks(tmp_path: Path) -> None:
    curve = [(x / 7, Measured(0.5, 0.5, 0.5, 1)) for x in range(100)]
    assert len(curve) > MOST_DOTS
    plot = line_plot({"loss": curve}, "loss", "steps", marks=[3, 9])
    root = written(tmp_path, plot)
    assert len(re.findall('id="mark"', plot)) == 2
    assert dots(root, "loss") == []
    assert "interval-loss" not in plot  # the intervals are empty
    assert {"0", "2", "4", "14"} <= texts(root)
    assert f"{99 / 7:g}" not in texts(root)
    few = written(
        tmp_path, line_plot({"loss": [(0.064, curve[0][1]), (0.219429, curve[1][1])]}, "loss", "thousands of items")
    )
    assert "0.219429" not in texts(few)


@pytest.mark.parametrize("value", [0.0, -3.0, 250.0])
def test_a_single_point_is_a_plot(tmp_path: Path, value: float) -> None:
    root = written(tmp_path, line_plot({"_x $": [(1.0, Measured(value, value, value, 1))]}, "t", "x"))
    assert len(dots(root, "_x $")) == 1
    assert "x $" in texts(root)
    with pytest.raises(ValueError, match="nothing to plot"):
        line_plot({}, "t", "x")
