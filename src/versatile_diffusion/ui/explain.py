"""The page that explains the model: which streams run for a task, drawn."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import gradio as gr

from versatile_diffusion.diffuser.groups import parameter_counts
from versatile_diffusion.flow import Flow
from versatile_diffusion.layers.plan import Stage
from versatile_diffusion.ui.controls import PRIVATE
from versatile_diffusion.ui.forms import title

if TYPE_CHECKING:
    from versatile_diffusion import VersatileDiffusionPipeline

WORDS = """
<p>One network, the <b>diffuser</b>, does every task. Its layers fall in three groups. <b>Global</b> layers tell how
noisy things still are and run always. <b>Data</b> layers come in one stream for each kind of thing that is made.
<b>Context</b> layers come in one stream for each kind of thing that guides. A task switches on one data stream and the
context streams of what guides it; all others rest.</p>
"""
WIDE, HIGH = 150, 44  # of a box
COLUMNS = (10, 200, 400, 610)  # left edges: encoders, context streams, data streams, codecs
TOP, GAP = 84, 60


def explain_tab(pipe: VersatileDiffusionPipeline) -> None:
    """The tab."""
    tasks = {task.name: task for task in pipe.tasks()}
    if not tasks:
        return
    first = next(iter(tasks))
    with gr.Tab("How it works", id="explain", elem_id="tab-explain"):
        gr.HTML(WORDS, elem_classes="words")
        chosen = gr.Radio([(title(name), name) for name in tasks], value=first, label="Task")
        drawn = gr.HTML(explained(pipe, tasks[first].flow), elem_id="explained", apply_default_css=False)
        chosen.input(
            lambda name: explained(pipe, tasks[name].flow) if name in tasks else gr.skip(),
            chosen,
            drawn,
            queue=False,
            **PRIVATE,
        )


def explained(pipe: VersatileDiffusionPipeline, flow: Flow) -> str:
    """The drawings of a flow, and what they say in words."""
    counts = parameter_counts(pipe.unet)
    active = running(pipe, flow)
    share, total = sum(counts[name] for name in active), sum(counts.values())
    blocks = sum(stage.attention is not None for stage in pipe.unet.plan)
    words = (
        f"For {escape(' and '.join(flow.contexts))} to {escape(flow.data)}, {len(active)} of {len(counts)} parts of "
        f"the diffuser run: {millions(share)} of {millions(total)} numbers. Each step, the {escape(flow.data)} passes "
        f"{len(pipe.unet.plan)} data layers, and {blocks} context blocks of each context."
    )
    return f'<div class="explained">{streams(pipe, flow)}<p>{words}</p>{layers(pipe.unet.plan)}</div>'


def running(pipe: VersatileDiffusionPipeline, flow: Flow) -> list[str]:
    """Parts of the diffuser that a flow runs, as `parameter_counts` calls them."""
    return ["global", f"data.{flow.data}", *(f"context.{name}" for name in flow.contexts)]


def millions(count: int) -> str:
    """A count for people."""
    return f"{count / 1e6:.1f} million" if count >= 1e5 else f"{count:,}"


def streams(pipe: VersatileDiffusionPipeline, flow: Flow) -> str:
    """Encoders, streams and codecs as boxes; what runs for the flow is coloured, and the way through it drawn."""
    counts = parameter_counts(pipe.unet)
    context, data = list(pipe.unet.context), list(pipe.unet.data)
    rows = max(len(context), len(data))
    height = TOP + rows * GAP + 20
    encoder_x, context_x, data_x, codec_x = COLUMNS
    shapes = [
        f'<rect class="frame" x="{context_x - 14}" y="8" width="{data_x + WIDE + 14 - context_x + 14}" '
        f'height="{height - 16}" rx="12"/>',
        _box((context_x + data_x) // 2, 18, "global: time", millions(counts["global"]), True, "global"),
    ]
    for k, name in enumerate(context):
        y, on = TOP + k * GAP, name in flow.contexts
        shapes += [
            _arrow(encoder_x + WIDE, y, context_x, y, on),
            _box(encoder_x, y, f"{name} encoder", "context tokens", on, "context"),
            _box(context_x, y, f"context: {name}", millions(counts[f"context.{name}"]), on, "context"),
        ]
        shapes += [_arrow(context_x + WIDE, y, data_x, TOP + data.index(flow.data) * GAP, on)] if on else []
    for k, name in enumerate(data):
        y, on = TOP + k * GAP, name == flow.data
        shapes += [
            _arrow(data_x + WIDE, y, codec_x, y, on),
            _box(data_x, y, f"data: {name}", millions(counts[f"data.{name}"]), on, "data"),
            _box(codec_x, y, f"{name} decoder", "latent to " + name, on, "data"),
        ]
    label = f"Streams that run for {flow}"
    return _svg(codec_x + WIDE + 10, height, shapes, label)


def layers(plan: Sequence[Stage]) -> str:
    """The plan in running order: a square for each data layer, a dot for each context block, lower where the latent's
    grid is coarser."""
    step, level, shapes, x = 15, 0, [], 12
    for stage in plan:
        level += stage.kind == "down"
        y = 14 + 16 * level
        shapes.append(f'<rect class="data on" x="{x}" y="{y}" width="11" height="11" rx="2"/>')
        x += step
        if stage.attention is not None:
            shapes.append(f'<circle class="context on" cx="{x + 5}" cy="{y + 5.5}" r="5.5"/>')
            x += step
        level -= stage.kind == "up"
    deepest = 14 + 16 * sum(stage.kind == "down" for stage in plan)
    says = "squares: data layers; dots: context blocks; lower: coarser"
    legend = f'<text x="12" y="{deepest + 34}" class="small">{says}</text>'
    return _svg(max(x + 10, 420), deepest + 44, [*shapes, legend], "The layers in running order")


def _svg(width: int, height: int, shapes: Sequence[str], label: str) -> str:
    head = (
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z" class="tip"/></marker></defs>'
    )
    return (
        f'<svg viewBox="0 0 {width} {height}" style="max-width:{width}px" role="img" aria-label="{escape(label)}">'
        f"{head}{''.join(shapes)}</svg>"
    )


def _box(x: int, y: int, title: str, below: str, on: bool, kind: str) -> str:
    state = f"{kind} {'on' if on else 'off'}"
    middle = x + WIDE // 2
    return (
        f'<rect class="{state}" x="{x}" y="{y}" width="{WIDE}" height="{HIGH}" rx="8"/>'
        f'<text class="{state}" x="{middle}" y="{y + 19}" text-anchor="middle">{escape(title)}</text>'
        f'<text class="{state} small" x="{middle}" y="{y + 35}" text-anchor="middle">{escape(below)}</text>'
    )


def _arrow(x: int, y: int, to_x: int, to_y: int, on: bool) -> str:
    half = HIGH // 2
    state = "on" if on else "off"
    return f'<path class="arrow {state}" d="M{x + 2} {y + half}L{to_x - 3} {to_y + half}" marker-end="url(#tip)"/>'
