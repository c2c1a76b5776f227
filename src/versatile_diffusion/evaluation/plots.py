"""Line plots as standalone SVG, drawn by matplotlib."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from versatile_diffusion.evaluation.intervals import Measured
from versatile_diffusion.printable import shown

COLOURS = ("#1b6ca8", "#c8553d", "#3a7d44", "#8e5aa8", "#b8860b", "#4a4e69", "#d1478c", "#2a9d8f")
MOST_TICKS, LONGEST_TICK, MOST_DOTS = 10, 5, 40
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "versatile-diffusion",
    "font.size": 9.0,
    "font.family": "sans-serif",
}
"""Text stays text, and equal plots are equal files."""
Point = tuple[float, Measured]


def line_plot(curves: Mapping[str, Sequence[Point]], title: str, across: str, marks: Sequence[float] = ()) -> str:
    """Draw an SVG line plot: one line per curve with shaded intervals, and a legend.

    Args:
        curves: points (x, metric) by name, by increasing x.
        title: name of the metric.
        across: label of the x axis.
        marks: x positions of dashed lines.

    Raises:
        ValueError: no points.
    """
    xs = sorted({x for curve in curves.values() for x, _ in curve})
    if not xs:
        raise ValueError(f"nothing to plot: no result has {shown(title)}")
    with rc_context(STYLE):
        figure = Figure(figsize=(4.8, 3.0 + 0.17 * len(curves)), layout="constrained")
        axes = figure.subplots()
        for k, (name, curve) in enumerate(curves.items()):
            _draw(axes, name, curve, COLOURS[k % len(COLOURS)])
        for x in marks:
            axes.axvline(x, color="#bbb", linewidth=1, linestyle="--", gid="mark")
        if len(xs) <= MOST_TICKS and all(len(f"{x:g}") <= LONGEST_TICK for x in xs):
            axes.set_xticks(xs, [f"{x:g}" for x in xs])
        axes.set_title(_plain(title), loc="left", fontweight="bold")
        axes.set_xlabel(_plain(across), loc="right")
        axes.grid(axis="y", color="#ddd")
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(length=0)
        figure.legend(loc="outside lower left", frameon=False)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", metadata={"Date": None, "Creator": None})
    return re.sub(r"^.*?(?=<svg)", "", stream.getvalue(), flags=re.DOTALL)


def _draw(axes: Axes, name: str, curve: Sequence[Point], colour: str) -> None:
    """Draw a curve: a dot per point unless there are many, and a band where the interval is not empty."""
    line = [(x, m.value) for x, m in curve if m.value is not None]
    xs, ys = [x for x, _ in line], [y for _, y in line]
    dots = "o" if len(line) <= MOST_DOTS else ""
    axes.plot(xs, ys, color=colour, linewidth=1.6, marker=dots, markersize=4, label=_plain(name), gid=f"curve-{name}")
    sure = [(x, m.low, m.high) for x, m in curve if m.low is not None and m.high is not None]
    if any(low < high for _, low, high in sure):
        band = [x for x, *_ in sure], [low for _, low, _ in sure], [high for *_, high in sure]
        axes.fill_between(*band, color=colour, alpha=0.12, linewidth=0, gid=f"interval-{name}")


def _plain(name: str) -> str:
    """Text for matplotlib, which ignores legend entries with a leading underscore and reads $ as mathematics."""
    return name.lstrip("_").replace("$", r"\$")
