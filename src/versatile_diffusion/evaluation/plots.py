"""Line plots as standalone SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from versatile_diffusion.evaluation.intervals import Measured
from versatile_diffusion.printable import shown

COLOURS = ("#1b6ca8", "#c8553d", "#3a7d44", "#8e5aa8", "#b8860b", "#4a4e69", "#d1478c", "#2a9d8f")
WIDTH, HEIGHT, LEFT, TOP, BOTTOM = 460, 260, 56, 26, 40
MOST_TICKS, LONGEST_TICK, MOST_DOTS = 10, 5, 40
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
    points = [point for curve in curves.values() for point in curve]
    if not points:
        raise ValueError(f"nothing to plot: no result has {shown(title)}")
    xs, ys = [x for x, _ in points], [y for _, m in points for y in (m.low, m.value, m.high) if y is not None]
    ticks_x, ticks_y = sorted(set(xs)), _ticks(min(ys), max(ys))
    if len(ticks_x) > MOST_TICKS or any(len(f"{x:g}") > LONGEST_TICK for x in ticks_x):
        ticks_x = [x for x in _ticks(min(xs), max(xs)) if min(xs) <= x <= max(xs)]
    spot = _Axes(min(xs), max(xs), ticks_y[0], ticks_y[-1])
    parts = [f'<text x="{LEFT}" y="16" font-weight="bold">{escape(title)}</text>']
    for y in ticks_y:
        parts.append(f'<path d="M{LEFT} {spot.y(y):.1f}H{WIDTH - 10}" stroke="#ddd"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{spot.y(y) + 4:.1f}" text-anchor="end">{y:g}</text>')
    for x in marks:
        parts.append(f'<path d="M{spot.x(x):.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#bbb" stroke-dasharray="2 3"/>')
    for x in ticks_x:
        parts.append(f'<text x="{spot.x(x):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{x:g}</text>')
    parts.append(f'<text x="{WIDTH - 10}" y="{HEIGHT - 6}" text-anchor="end">{escape(across)}</text>')
    for k, (name, curve) in enumerate(curves.items()):
        parts.append(_curve(curve, spot, COLOURS[k % len(COLOURS)]))
        below = HEIGHT + 16 * k + 12
        parts.append(f'<rect x="{LEFT}" y="{below - 9}" width="10" height="10" fill="{COLOURS[k % len(COLOURS)]}"/>')
        parts.append(f'<text x="{LEFT + 16}" y="{below}">{escape(name)}</text>')
    height = HEIGHT + 16 * len(curves) + 8
    style = 'font-family="system-ui, sans-serif" font-size="11" fill="#222"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" {style}>'
        f"{''.join(parts)}</svg>"
    )


class _Axes:
    """Mapping of values to coordinates."""

    def __init__(self, left: float, right: float, low: float, high: float):
        self.left, self.low = left, low
        self.wide, self.tall = (right - left) or 1.0, (high - low) or 1.0

    def x(self, value: float) -> float:
        return LEFT + 10 + (value - self.left) / self.wide * (WIDTH - LEFT - 40)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (value - self.low) / self.tall * (HEIGHT - BOTTOM - TOP)


def _curve(curve: Sequence[Point], spot: _Axes, colour: str) -> str:
    def path(values: Sequence[tuple[float, float]]) -> str:
        return " ".join(f"{spot.x(x):.1f},{spot.y(y):.1f}" for x, y in values)

    sure = [(x, m.low, m.high) for x, m in curve if m.low is not None and m.high is not None]
    band = [(x, high) for x, _, high in sure] + [(x, low) for x, low, _ in reversed(sure)]
    line = [(x, m.value) for x, m in curve if m.value is not None]
    dotted = line if len(line) <= MOST_DOTS else []
    dots = "".join(f'<circle cx="{spot.x(x):.1f}" cy="{spot.y(y):.1f}" r="2.5" fill="{colour}"/>' for x, y in dotted)
    shade = any(low < high for _, low, high in sure)
    return (
        f'<polygon points="{path(band)}" fill="{colour}" opacity="0.12"/>' if shade else ""
    ) + f'<polyline points="{path(line)}" fill="none" stroke="{colour}" stroke-width="1.6"/>{dots}'


def _ticks(low: float, high: float) -> list[float]:
    """Return about five round ticks covering the range."""
    span = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(span / 5))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= 6)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(step * k, 10) for k in range(first, max(last, first + 1) + 1)]
