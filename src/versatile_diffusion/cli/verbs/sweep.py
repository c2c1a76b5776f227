"""`versatile sweep`: one task over one or two settings, as a labelled sheet."""

from __future__ import annotations

import json as json_format
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from versatile_diffusion.applications.sweep import (
    MOST_CELLS,
    Axis,
    axis,
    cell,
    cell_record,
    cell_texts,
    check,
    choices,
    record,
    sheet,
)
from versatile_diffusion.choices import unknown
from versatile_diffusion.cli.io.console import note, show, show_json, with_progress
from versatile_diffusion.cli.io.inputs import one_input
from versatile_diffusion.cli.options import Device, Dtype, Json, Preview, default_model, models, tasks
from versatile_diffusion.flow import Condition
from versatile_diffusion.tasks import TASKS

if TYPE_CHECKING:
    from versatile_diffusion.pipeline.output import Output


def sweep(
    task: Annotated[str, typer.Argument(autocompletion=tasks, help="Task, e.g. text-to-image.")],
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT", help="Prompt or file, one per context.")],
    over: Annotated[
        list[str],
        typer.Option(metavar="NAME=VALUES", help="guidance_scale=1:12:2, seed=0:4, style=a,b, image.focus=0,0.5,1 ..."),
    ],
    fixed: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Setting shared by all cells.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of all cells, unless swept.")] = 0,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Shipped model, folder or hub id; default: emoji, or emoji-speech for audio.",
            autocompletion=models,
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Output folder.")] = Path("out"),
    device: Device = None,
    dtype: Dtype = "auto",
    preview: Preview = None,
    json: Json = False,
) -> None:
    """Run a task over one setting (a row) or two (rows and columns) and draw the results as a labelled sheet.

    The first --over varies down the rows, the second across the columns. Names are the options (`--steps` as steps),
    the Python arguments, or CONTEXT.FIELD for a condition's control, e.g. text.weight.
    """
    from versatile_diffusion.cli.io.files import check_folder
    from versatile_diffusion.cli.io.model import load
    from versatile_diffusion.cli.io.results import Written

    axes = [axis(text) for text in over]
    conditions, base = task_inputs(task, inputs), [one for text in fixed or () for one in _shared_setting(axis(text))]
    settings = list(choices(axes))
    if len(axes) > 2 or len(settings) > MOST_CELLS:
        raise ValueError(f"{len(axes)} settings with {len(settings)} cells; at most 2 settings and {MOST_CELLS} cells")
    data, cells = TASKS[task].flow.data, [cell(conditions, [("seed", seed), *base, *chosen]) for chosen in settings]
    for one in cells:
        check(data, one)
    check_folder(out)
    model = model or default_model(TASKS[task].flow)
    pipe = load(model, device, dtype)
    outputs = [
        pipe.generate(data, one.conditions, **one.arguments) for one in with_progress(cells, f"{len(cells)} cells")
    ]
    file = save(outputs, axes, model, out)
    if json:
        told = {"axes": {one.name: list(one.values) for one in axes}, "file": str(file)}
        return show_json(told | {"cells": [cell_record(output) for output in outputs]})
    for chosen, output in zip(settings, outputs, strict=True):
        if texts := cell_texts(output):
            show(f"{', '.join(f'{name} {value}' for name, value in chosen)}: {' | '.join(texts)}")
    Written(files=(file,)).show(preview)
    note(f"{len(cells)} cells, {sum((one.cost.passes for one in outputs), start=0)} passes")


def task_inputs(task: str, inputs: Sequence[str]) -> list[Condition]:
    """Return the conditions of a task, one per input; ValueError for an unknown task or a wrong number of inputs."""
    if task not in TASKS:
        raise ValueError(unknown("task", task, TASKS))
    contexts = TASKS[task].flow.contexts
    if len(inputs) != len(contexts):
        raise ValueError(f"{task} takes {len(contexts)} inputs ({', '.join(contexts)}); got {len(inputs)}")
    return [Condition(m, one_input(m, value).value) for m, value in zip(contexts, inputs, strict=True)]


def _shared_setting(one: Axis) -> list[tuple[str, Any]]:
    if len(one.values) != 1:
        raise ValueError(f"--set {one.name} has {len(one.values)} values; only one is allowed; use --over for several")
    return [(one.name, one.values[0])]


def save(outputs: Sequence[Output], axes: Sequence[Axis], model: str, folder: Path, name: str = "sweep") -> Path:
    """Write the sheet `name` as PNG with the settings of all cells embedded, or as JSON if the values cannot be
    drawn."""
    from versatile_diffusion.cli.io.files import save_new, variants
    from versatile_diffusion.cli.io.results import put
    from versatile_diffusion.records.png import save_png

    saved = record(outputs, axes, model)
    if cell_texts(outputs[0]):
        text = json_format.dumps(saved, ensure_ascii=False, indent=2) + "\n"
        return save_new(variants(folder / f"{name}.json"), partial(put, text))[0]
    return save_new(variants(folder / f"{name}.png"), partial(save_png, sheet(outputs, axes), record=saved))[0]
