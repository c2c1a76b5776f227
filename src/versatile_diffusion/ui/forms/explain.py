"""Tab that explains the model: which streams run for a task, as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

import gradio as gr

from versatile_diffusion.diffuser.groups import parameter_counts
from versatile_diffusion.flow import Flow
from versatile_diffusion.layers.plan import Stage
from versatile_diffusion.ui.forms.controls import PRIVATE
from versatile_diffusion.ui.forms.tabs import title

if TYPE_CHECKING:
    from versatile_diffusion import VersatileDiffusionPipeline

WORDS = """
<p>One network, the <b>diffuser</b>, does every task. Its layers form three groups. <b>Global</b> layers encode the
timestep and always run. <b>Data</b> layers have one stream per generated modality. <b>Context</b> layers have one
stream per conditioning modality. A task activates one data stream and the context streams of its inputs; all other
streams are idle.</p>
"""
WIDE, HIGH = 150, 44  # size of a box
COLUMNS = (10, 200, 400, 610)  # left edges: encoders, context streams, data streams, codecs
TOP, GAP = 84, 60


def explain_tab(pipe: VersatileDiffusionPipeline) -> None:
    """Draw the tab."""
    tasks = {task.name: task for task in pipe.tasks()}
    if not tasks:
        return
    first = next(iter(tasks))
    with gr.Tab("How it works", id="explain", elem_id="tab-explain"):
        gr.HTML(WORDS, elem_classes="words")
        chosen = gr.Radio([(title(name), name) for name in tasks], value=first, label="Task")
        drawn = gr.HTML(explanation(pipe, tasks[first].flow), elem_id="explained", apply_default_css=False)
        chosen.input(
            lambda name: explanation(pipe, tasks[name].flow) if name in tasks else gr.skip(),
            chosen,
            drawn,
            queue=False,
            **PRIVATE,
        )


def explanation(pipe: VersatileDiffusionPipeline, flow: Flow) -> str:
    """Return the figures of a flow, with a summary."""
    counts = parameter_counts(pipe.unet)
    active = active_groups(pipe, flow)
    share, total = sum(counts[name] for name in active), sum(counts.values())
    blocks = sum(stage.attention is not None for stage in pipe.unet.plan)
    words = (
        f"For {escape(' and '.join(flow.contexts))} to {escape(flow.data)}, {len(active)} of {len(counts)} parameter "
        f"groups are active: {millions(share)} of {millions(total)} parameters. In each step, the "
        f"{escape(flow.data)} latent passes {len(pipe.unet.plan)} data layers, and {blocks} context blocks per context."
    )
    return f'<div class="explained">{streams(pipe, flow)}<p>{words}</p>{layers(pipe.unet.plan)}</div>'


def active_groups(pipe: VersatileDiffusionPipeline, flow: Flow) -> list[str]:
    """Return the parameter groups that a flow uses, by their names in `parameter_counts`."""
    return ["global", f"data.{flow.data}", *(f"context.{name}" for name in flow.contexts)]


def millions(count: int) -> str:
    """Format a count."""
    return f"{count / 1e6:.1f} million" if count >= 1e5 else f"{count:,}"


def streams(pipe: VersatileDiffusionPipeline, flow: Flow) -> str:
    """Draw encoders, streams and codecs as boxes; the active ones are coloured and connected."""
    counts = parameter_counts(pipe.unet)
    context, data = list(pipe.unet.context), list(pipe.unet.data)
    rows = max(len(context), len(data))
    height = TOP + rows * GAP + 20
    encoder_x, context_x, data_x, codec_x = COLUMNS
    shapes = [
        f'<rect class="frame" x="{context_x - 14}" y="8" width="{data_x + WIDE + 14 - context_x + 14}" '
        f'height="{height - 16}" rx="12"/>',
        _box((context_x + data_x) // 2, 18, "global: timestep", millions(counts["global"]), True, "global"),
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
    label = f"Active streams of {flow}"
    return _svg(codec_x + WIDE + 10, height, shapes, label)


def layers(plan: Sequence[Stage]) -> str:
    """Draw the plan in running order: squares are data layers, dots context blocks; lower means a coarser latent
    grid."""
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
    return _svg(max(x + 10, 420), deepest + 44, [*shapes, legend], "Layers in running order")


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
