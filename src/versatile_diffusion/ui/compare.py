"""The form that compares: a task over one or two settings, as a sheet of pictures or a table of texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import product
from typing import TYPE_CHECKING, Any

import gradio as gr
import torch

from versatile_diffusion.cli import sweep
from versatile_diffusion.cli.options import BELONGS
from versatile_diffusion.flow import Flow
from versatile_diffusion.sampling.output import Output
from versatile_diffusion.tasks import TASKS
from versatile_diffusion.ui.controls import (
    CONTROLS,
    PRIVATE,
    Setting,
    condition,
    controls_of,
    draw_controls,
    recoloured,
)
from versatile_diffusion.ui.forms import Form, Values, filled, first_picture, seeded, setting_of, title
from versatile_diffusion.ui.jobs import Ask
from versatile_diffusion.ui.shelf import Sheet
from versatile_diffusion.ui.widgets import picture

if TYPE_CHECKING:
    from versatile_diffusion import VersatileDiffusionPipeline

AXES: Mapping[str, tuple[str, str]] = {
    "guidance_scale": ("Guidance", "1, 3, 5, 8"),
    "steps": ("Steps", "2, 5, 10, 25"),
    "seed": ("Seed", "0, 1, 2, 3"),
    "style": ("Style", ""),
    "scheduler": ("Scheduler", "ddim, dpm++, unipc"),
    "image.focus": ("Focus of the picture", "0, 0.25, 0.5, 0.75, 1"),
    "text.weight": ("Weight of the text", "0.2, 0.5, 0.8"),
    "image.weight": ("Weight of the picture", "0.2, 0.5, 0.8"),
    "mixing": ("Mixing level", "attention, layer, model"),
    "temperature": ("Temperature", "0, 0.5, 1"),
}
"""Settings to go over: what they are called, and values to begin with."""
NOTHING = "nothing"
INPUTS = ("text", "image")
WHAT = {"text": "text", "image": "picture"}
WITHOUT = ("count", "rank", "layer_plan")
FIELDS = ("task", *INPUTS, "across", "across-values", "down", "down-values")


def compare_form(pipe: VersatileDiffusionPipeline, samples: Sequence[str]) -> Form:
    """A task over one or two settings."""
    tasks = {task.name: task for task in pipe.tasks()}
    first = next(iter(tasks.values()))
    examples = _examples(pipe, samples)

    def draw(setting: Setting) -> dict[str, Any]:
        choices = [(title(name), name) for name in tasks]
        drawn: dict[str, Any] = {"task": gr.Dropdown(choices, value=first.name, label="Task")}
        with gr.Row(elem_classes="cards"):
            drawn["text"] = gr.Textbox(
                label="Text", info="Where the task takes one, like the picture.", max_length=500, min_width=180
            )
            drawn["image"] = picture("Picture", height=150, min_width=180)
        drawn |= _axis("across", "guidance_scale", pipe) | _axis("down", NOTHING, pipe)
        each = [controls_of(task.flow, setting, WITHOUT) for task in tasks.values()]
        controls = {name: control for name, control in CONTROLS.items() if any(name in one for one in each)}
        at_first = setting_of(pipe, setting.limits, first)
        with gr.Row(elem_classes="simple"):
            made = draw_controls(controls, at_first, fold=False)
        with gr.Accordion("Advanced", open=False, elem_classes="advanced"), gr.Row(elem_classes="settings"):
            made |= draw_controls(controls, at_first, fold=True)
        for name, component in made.items():
            component.visible = name in each[0]

        def fitting(task: str) -> list[Any]:
            shown = controls_of(tasks[task].flow, setting, WITHOUT) if task in tasks else made
            return [gr.update(visible=name in shown) for name in made]

        def usual(task: str) -> list[Any]:
            given = setting_of(pipe, setting.limits, tasks.get(task, first)).defaults
            return [given["guidance_scale"], given.get("num_inference_steps", 50)]

        drawn["task"].change(fitting, drawn["task"], [*made.values()], queue=False, **PRIVATE)
        drawn["task"].input(usual, drawn["task"], [made["guidance_scale"], made["steps"]], queue=False, **PRIVATE)
        return drawn | made

    return Form(
        "sweep",
        "Compare",
        "One task over one or two settings, side by side: pictures on a sheet, texts in a table.",
        first.flow.data,
        draw,
        _asks,
        tuple((name, name) for name in INPUTS),
        FIELDS,
        tuple(examples.values()),
        "Compare",
        _together,
        besides=tuple({task.flow.data for task in tasks.values()} - {first.flow.data}),
        example_labels=tuple(examples),
    )


def _axis(name: str, usual: str, pipe: VersatileDiffusionPipeline) -> dict[str, Any]:
    """Draws a setting to go over and its values."""
    styles = ", ".join(_styles(pipe))
    choices = [(label, axis) for axis, (label, _) in AXES.items() if axis != "style" or styles]
    with gr.Row():
        chosen = gr.Dropdown(
            choices if name == "across" else [NOTHING, *choices], value=usual, label=name.capitalize(), min_width=120
        )
        at_first = AXES[usual][1] if usual in AXES else ""
        values = gr.Textbox(at_first, label=f"Values {name}", info="Or first:end:step.", min_width=160)
    chosen.input(
        lambda axis: styles if axis == "style" else AXES[axis][1] if axis in AXES else "",
        chosen,
        values,
        queue=False,
        **PRIVATE,
    )
    return {name: chosen, f"{name}-values": values}


def _styles(pipe: VersatileDiffusionPipeline) -> list[str]:
    return list(pipe.config.styles)[:4]


def _examples(pipe: VersatileDiffusionPipeline, samples: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    """Values of `FIELDS` by what they show, of tasks that the model has."""
    styles, sample = ", ".join(_styles(pipe)) or "noto", samples[0] if samples else None
    usual = AXES["guidance_scale"][1]
    rows = {
        "A red apple, followed more and more closely": ("text-to-image", "a red apple", None, "guidance_scale", usual),
        "A smiling face in several styles, twice": ("text-to-image", "a smiling face", None, "style", styles),
        "Captions of a picture, chosen more and more freely": ("image-to-text", "", sample, "temperature", "0, 0.5, 1"),
    }
    down = ((NOTHING, ""), ("seed", "0, 1"), ("seed", "0, 1, 2"))
    able = {task.name for task in pipe.tasks()}
    both = zip(rows.items(), down, strict=True)
    return {label: (*row, *more) for (label, row), more in both if row[0] in able and (row[1] or row[2])}


def _asks(values: Values) -> list[Ask]:
    task = TASKS[values["task"]]
    conditions = [condition(name, name, {name: values.get(name)}) for name in task.flow.contexts]
    if None in conditions:
        raise ValueError(f"{title(task.name)} needs {' and '.join(f'a {WHAT[name]}' for name in task.flow.contexts)}")
    given = filled(conditions, "")
    shared = {name: value for name, value in seeded(values).items() if _fits(name, task.flow)}
    after = recoloured(values, first_picture(given)) if _fits("match_colours", task.flow) else None
    names = {sweep.OTHER_NAMES.get(name, name): label.lower() for name, (label, _) in AXES.items()}
    made = []
    for choices in product(*([(axis.name, value) for value in axis.values] for axis in _axes(values))):
        changed, arguments = sweep.cell(given, choices)
        label = ", ".join(f"{names.get(name, name)} {value}" for name, value in choices)
        made.append(Ask(task.flow.data, tuple(changed), {**shared, **arguments}, after=after, label=label))
    return made


def _axes(values: Values) -> list[sweep.Axis]:
    """The settings to go over, the one that goes down first."""
    axes = []
    for name in ("down", "across"):
        setting, text = values[name], "".join((values[f"{name}-values"] or "").split())
        if setting in (None, NOTHING):
            continue
        label, usual = AXES[setting]
        if not text:
            raise ValueError(f"give values for {label.lower()}, such as {usual or 'a, b'}")
        axes.append(sweep.axis(f"{setting}={text}"))
    if not axes:
        raise ValueError("choose a setting to go over")
    return axes


def _fits(argument: str, flow: Flow) -> bool:
    """Whether a flow takes an argument."""
    return argument not in frozenset().union(*(names for has, names in BELONGS.items() if not has(flow)))


def _together(values: Values, outputs: Sequence[Output], model: str) -> Sheet:
    return sheet(outputs, _axes(values), model)


def sheet(outputs: Sequence[Output], axes: Sequence[sweep.Axis], model: str) -> Sheet:
    """The first item of each run, labelled, and the record that `versatile replay` reads."""
    record = {
        "sweep": [[axis.name, list(axis.values)] for axis in axes],
        "cells": [sweep.cell_record(output) for output in outputs],
        "from_pretrained": model,
        "threads": torch.get_num_threads(),
    }
    if outputs[0].data == "text":
        return Sheet(record, table=table([output.texts[0] for output in outputs], axes))
    return Sheet(record, sweep.sheet(outputs, axes))


def table(texts: Sequence[str], axes: Sequence[sweep.Axis]) -> str:
    """Texts as a table in HTML, the first axis down (across, where it is the only one)."""
    columns, rows = axes[-1].labels(), axes[0].labels() if len(axes) == 2 else [""]
    head = "".join(f"<th>{escape(label)}</th>" for label in ["", *columns])
    body = ""
    for k, label in enumerate(rows):
        cells = "".join(f"<td>{escape(text)}</td>" for text in texts[k * len(columns) : (k + 1) * len(columns)])
        body += f"<tr><th>{escape(label)}</th>{cells}</tr>"
    return f'<div class="cells"><table><tr>{head}</tr>{body}</table></div>'
