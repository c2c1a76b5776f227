"""Draw the figures of docs/architecture.md: the plan of the U-Net and the streams of the diffuser.

    python scripts/draw_plan.py        (needs matplotlib, of the extra `data`)

The plan comes from `unet_plan`, the streams from the tables of modalities and tasks. The same version of matplotlib
writes the same bytes; `tests/examples/test_figures.py` compares.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from versatile_diffusion.flow import Flow
from versatile_diffusion.layers.plan import unet_plan
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.tasks import TASKS

OUT = Path(__file__).parents[1] / "docs" / "images"
WIDTH, MULTIPLIERS, DEPTH, ATTENDS = 320, (1, 2, 4, 4), 2, (True, True, True, False)
"""The official size."""
SIDE = 64
"""Latent side of the official size, for images of 512 x 512 pixels."""
SHOWN = "text-to-image"
"""The task whose streams are highlighted."""
DATA, CONTEXT, GLOBAL = "#2f6fab", "#d9822b", "#5b7f4c"
RESTING, INK, SKIP = "#c4c9cf", "#222222", "#9aa1a9"
STYLE = {"svg.hashsalt": "versatile-diffusion", "svg.fonttype": "path", "font.family": "DejaVu Sans", "font.size": 9}


def draw_plan(file: Path) -> None:
    """Stages in running order from left to right; lower rows have coarser latents."""
    plan = unet_plan(WIDTH, MULTIPLIERS, DEPTH, ATTENDS)
    axes = _canvas(11, 3.7)
    skips: list[tuple[float, int]] = []
    x, level = 0.0, 0
    for stage in plan:
        level += {"down": 1, "up": -1}.get(stage.kind, 0)
        if stage.pops:
            start, row = skips.pop()
            height = 0.42 + 0.13 * sum(other == row for _, other in skips)
            axes.plot([start, start, x, x], [-row + h for h in (0, height, height, 0)], color=SKIP, lw=0.8, zorder=1)
        _mark(axes, x, -level, stage.kind[0].upper(), "s", DATA)
        if stage.pushes:
            skips.append((x, level))
        if stage.attention is not None:
            x += 1
            _mark(axes, x, -level, str(stage.attention), "o", CONTEXT)
        x += 1
    for row, factor in enumerate(MULTIPLIERS):
        side = SIDE >> row
        axes.text(-0.9, -row, f"{side} x {side}\n{WIDTH * factor} channels", ha="right", va="center", fontsize=8)
    blocks = sum(stage.attention is not None for stage in plan)
    legend = {
        0: ("s", DATA, f"{len(plan)} data layers: S stem, R residual, D down, U up, O out"),
        19: ("o", CONTEXT, f"{blocks} context blocks, numbered"),
        30: ("_", SKIP, "skip connections"),
    }
    for place, (shape, colour, text) in legend.items():
        _mark(axes, place, -3.75, "", shape, colour, 9)
        axes.text(place + 0.6, -3.75, text, va="center", fontsize=8)
    axes.set_xlim(-5, x)
    axes.set_ylim(-4, 0.85)
    _save(axes, file)


def draw_streams(file: Path) -> None:
    """Encoders, streams and codecs; those of one task are coloured."""
    axes, flow = _canvas(10, 2.8), TASKS[SHOWN].flow
    names = [name for name, record in MODALITIES.items() if record.data_stream and record.context_stream]
    rows = {name: 1.3 * (len(names) - 1 - k) for k, name in enumerate(names)}
    top = max(rows.values()) + 1.75
    axes.add_patch(FancyBboxPatch((4.55, -0.75), 5.9, top + 1.15, boxstyle="round,pad=0.1", fc="#f4f6f8", ec="#8a9199"))
    axes.text(4.6, top + 0.22, "Diffuser", fontsize=10, fontweight="bold", va="center")
    _box(axes, 7.5, top, "time embedding (global)", GLOBAL, 2.9)
    for name, y in rows.items():
        reads, writes = name in flow.contexts, name == flow.data
        _box(axes, 0.9, y, f"{name}\ncondition", CONTEXT if reads else RESTING, 1.5)
        _box(axes, 3.1, y, "context\nencoder", CONTEXT if reads else RESTING, 1.5)
        _box(axes, 5.7, y, f"{name}\ncontext stream", CONTEXT if reads else RESTING, 2.0)
        _box(axes, 9.3, y, f"{name}\ndata stream", DATA if writes else RESTING, 2.0)
        _box(axes, 11.9, y, "codec\ndecoder", DATA if writes else RESTING, 1.5)
        _box(axes, 14.1, y, f"{name}\noutput", DATA if writes else RESTING, 1.5)
        _arrow(axes, (1.65, y), (2.35, y), reads)
        _arrow(axes, (3.85, y), (4.7, y), reads, "tokens" if reads else "")
        _arrow(axes, (10.3, y), (11.15, y), writes, "latent" if writes else "")
        _arrow(axes, (12.65, y), (13.35, y), writes)
        _arrow(axes, (7.9, top - 0.32), (8.35, y + 0.3), writes)
    for source, start in rows.items():
        for target, end in rows.items():
            _arrow(axes, (6.7, start), (8.3, end), Flow(target, (source,)) == flow)
    axes.set_xlim(0, 15)
    axes.set_ylim(-1, top + 0.7)
    _save(axes, file)


def _mark(axes: Axes, x: float, y: float, text: str, shape: str, colour: str, size: float = 13.5) -> None:
    axes.plot(x, y, shape, color=colour, markersize=size)
    axes.text(x, y, text, color="white", ha="center", va="center_baseline", fontsize=7)


def _canvas(width: float, height: float) -> Axes:
    axes = Figure((width, height)).add_axes((0.01, 0.01, 0.98, 0.98))
    axes.set_axis_off()
    return axes


def _box(axes: Axes, x: float, y: float, text: str, colour: str, width: float, height: float = 0.64) -> None:
    """A labelled box around (x, y)."""
    corner = x - width / 2, y - height / 2
    axes.add_patch(FancyBboxPatch(corner, width, height, boxstyle="round,pad=0.03", fc=colour, ec="none"))
    ink = INK if colour == RESTING else "white"
    axes.text(x, y, text, color=ink, ha="center", va="center", fontsize=8, linespacing=1.15)


def _arrow(axes: Axes, start: Sequence[float], end: Sequence[float], active: bool, text: str = "") -> None:
    """An arrow, drawn strongly where the task uses it."""
    colour, width, order = (INK, 1.6, 3) if active else (RESTING, 0.9, 1)
    arrow = FancyArrowPatch(
        start, end, arrowstyle="-|>", mutation_scale=9, color=colour, lw=width, zorder=order, shrinkA=2, shrinkB=2
    )
    axes.add_patch(arrow)
    axes.text((start[0] + end[0]) / 2, start[1] + 0.2, text, ha="center", fontsize=7)


def _save(axes: Axes, file: Path) -> None:
    axes.figure.savefig(file, format="svg", facecolor="white", metadata={"Date": None})


def draw(folder: Path) -> list[Path]:
    """Write every figure into a folder."""
    figures = {"plan.svg": draw_plan, "streams.svg": draw_streams}
    with matplotlib.rc_context(STYLE):
        for name, drawn in figures.items():
            drawn(folder / name)
    return [folder / name for name in figures]


if __name__ == "__main__":
    for written in draw(OUT):
        print(written)
    sys.exit(0)
