"""Comparison form: one task over one or two settings, as a sheet of images or a table of texts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from html import escape
from typing import TYPE_CHECKING, Any

import gradio as gr

from versatile_diffusion.applications import sweep
from versatile_diffusion.controls import CONDITION, REQUEST, RESULT, RUN, by_option
from versatile_diffusion.flow import Flow
from versatile_diffusion.pipeline.output import Output
from versatile_diffusion.tasks import TASKS
from versatile_diffusion.ui.forms.controls import (
    PRIVATE,
    WIDGETS,
    Setting,
    colour_match,
    condition,
    draw_controls,
    widgets_of,
)
from versatile_diffusion.ui.forms.tabs import (
    Form,
    Values,
    first_picture,
    noun_of,
    require_any,
    seed_arguments,
    setting_of,
    title,
)
from versatile_diffusion.ui.forms.widgets import picture
from versatile_diffusion.ui.page.shelf import Sheet
from versatile_diffusion.ui.queue.jobs import Ask

if TYPE_CHECKING:
    from versatile_diffusion import VersatileDiffusionPipeline


def _label(name: str) -> str:
    """Return an option's label on the page; a condition's as LABEL (MODALITY)."""
    modality, dot, option = name.rpartition(".")
    label = (by_option(CONDITION) if dot else by_option(RUN, REQUEST))[option].label
    return f"{label} ({modality})" if dot else label


AXES: Mapping[str, tuple[str, str]] = {
    name: (_label(name), values)
    for name, values in {
        "guidance_scale": "1, 3, 5, 8",
        "steps": "2, 5, 10, 25",
        "seed": "0, 1, 2, 3",
        "style": "",
        "scheduler": "ddim, dpm++, unipc",
        "image.focus": "0, 0.25, 0.5, 0.75, 1",
        "text.weight": "0.2, 0.5, 0.8",
        "image.weight": "0.2, 0.5, 0.8",
        "mixing": "attention, layer, model",
        "temperature": "0, 0.5, 1",
    }.items()
}
"""Options to sweep: label, and initial values."""
NOTHING = "nothing"
INPUTS = ("text", "image")
WITHOUT = ("count", "rank", "layer_plan")
FIELDS = ("task", *INPUTS, "across", "across-values", "down", "down-values")


def compare_form(pipe: VersatileDiffusionPipeline, samples: Sequence[str]) -> Form:
    """Form that sweeps one or two settings of a task."""
    tasks = {task.name: task for task in pipe.tasks()}
    first = next(iter(tasks.values()))
    examples = _examples(pipe, samples)

    def draw(setting: Setting) -> dict[str, Any]:
        choices = [(title(name), name) for name in tasks]
        drawn: dict[str, Any] = {"task": gr.Dropdown(choices, value=first.name, label="Task")}
        with gr.Row(elem_classes="cards"):
            drawn["text"] = gr.Textbox(
                label="Prompt", info="If the task takes a prompt.", max_length=500, min_width=180
            )
            drawn["image"] = picture("Image", height=150, min_width=180)
        drawn |= _axis("across", "guidance_scale", pipe) | _axis("down", NOTHING, pipe)
        each = [widgets_of(task.flow, setting, WITHOUT) for task in tasks.values()]
        controls = {name: control for name, control in WIDGETS.items() if any(name in one for one in each)}
        at_first = replace(setting, defaults=setting_of(pipe, setting.limits, first).defaults)
        with gr.Row(elem_classes="simple"):
            made = draw_controls(controls, at_first, fold=False)
        with gr.Accordion("Advanced", open=False, elem_classes="advanced"), gr.Row(elem_classes="settings"):
            made |= draw_controls(controls, at_first, fold=True)
        for name, component in made.items():
            component.visible = name in each[0]

        def fitting(task: str) -> list[Any]:
            shown = widgets_of(tasks[task].flow, setting, WITHOUT) if task in tasks else made
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
        "Compare one or two settings of a task side by side: images on a sheet, texts in a table.",
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
    """Draw an axis: a setting and its values."""
    styles = ", ".join(_styles(pipe))
    choices = [(label, axis) for axis, (label, _) in AXES.items() if axis != "style" or styles]
    with gr.Row():
        chosen = gr.Dropdown(
            choices if name == "across" else [NOTHING, *choices], value=usual, label=name.capitalize(), min_width=120
        )
        at_first = AXES[usual][1] if usual in AXES else ""
        values = gr.Textbox(at_first, label=f"Values {name}", info="Or first:end:step.", max_length=1000, min_width=160)
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
    """Example values of `FIELDS` by title, for tasks that the model has."""
    styles, sample = ", ".join(_styles(pipe)) or "noto", samples[0] if samples else None
    usual = AXES["guidance_scale"][1]
    rows = {
        f"A red apple at guidance {usual}": ("text-to-image", "a red apple", None, "guidance_scale", usual),
        "A smiling face in several styles, two seeds": ("text-to-image", "a smiling face", None, "style", styles),
        "Captions of an image at rising temperature": ("image-to-text", "", sample, "temperature", "0, 0.5, 1"),
    }
    down = ((NOTHING, ""), ("seed", "0, 1"), ("seed", "0, 1, 2"))
    able = {task.name for task in pipe.tasks()}
    both = zip(rows.items(), down, strict=True)
    return {label: (*row, *more) for (label, row), more in both if row[0] in able and (row[1] or row[2])}


def _asks(values: Values) -> Iterator[Ask]:
    """Yield a run per cell, lazily, since there may be many."""
    task = TASKS[values["task"]]
    conditions = [condition(name, name, {name: values.get(name)}) for name in task.flow.contexts]
    if None in conditions:
        raise ValueError(f"{title(task.name)} needs {' and '.join(noun_of(name) for name in task.flow.contexts)}")
    given = require_any(conditions, "")
    shared = {name: value for name, value in seed_arguments(values).items() if _fits(name, task.flow)}
    after = colour_match(values, first_picture(given)) if _fits("match_colours", task.flow) else None
    names = {sweep.OTHER_NAMES.get(name, name): label.lower() for name, (label, _) in AXES.items()}

    def ask(choices: Sequence[tuple[str, Any]]) -> Ask:
        cell = sweep.cell(given, choices)
        label = ", ".join(f"{names.get(name, name)} {value}" for name, value in choices)
        return Ask(task.flow.data, tuple(cell.conditions), {**shared, **cell.arguments}, after=after, label=label)

    return map(ask, sweep.choices(_axes(values)))


def _axes(values: Values) -> list[sweep.Axis]:
    """Parse the settings to sweep, rows first."""
    axes = []
    for name in ("down", "across"):
        setting, text = values[name], "".join((values[f"{name}-values"] or "").split())
        if setting in (None, NOTHING):
            continue
        label, usual = AXES[setting]
        if not text:
            raise ValueError(f"enter values for {label.lower()}, e.g. {usual or 'a, b'}")
        axes.append(sweep.axis(f"{setting}={text}"))
    if not axes:
        raise ValueError("choose a setting to sweep")
    return axes


def _fits(argument: str, flow: Flow) -> bool:
    """Return whether a flow takes an argument."""
    control = {**REQUEST, **RESULT}.get(argument)
    return control is None or control.belongs(flow)


def _together(values: Values, outputs: Sequence[Output], model: str) -> Sheet:
    return sheet(outputs, _axes(values), model)


def sheet(outputs: Sequence[Output], axes: Sequence[sweep.Axis], model: str) -> Sheet:
    """Lay out the first item of each run with labels, with the record that `versatile replay` reads."""
    record = sweep.record(outputs, axes, model)
    texts = [words for output in outputs for words in sweep.cell_texts(output)[:1]]
    if texts:
        return Sheet(record, table=table(texts, axes))
    return Sheet(record, sweep.sheet(outputs, axes))


def table(texts: Sequence[str], axes: Sequence[sweep.Axis]) -> str:
    """Format texts as an HTML table, the first axis down (across, if it is the only one)."""
    columns, rows = axes[-1].labels(), axes[0].labels() if len(axes) == 2 else [""]
    head = "".join(f"<th>{escape(label)}</th>" for label in ["", *columns])
    body = ""
    for k, label in enumerate(rows):
        cells = "".join(f"<td>{escape(text)}</td>" for text in texts[k * len(columns) : (k + 1) * len(columns)])
        body += f"<tr><th>{escape(label)}</th>{cells}</tr>"
    return f'<div class="cells"><table><tr>{head}</tr>{body}</table></div>'
