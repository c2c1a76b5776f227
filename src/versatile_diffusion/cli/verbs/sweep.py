"""`versatile sweep`: one task over one or two settings, as a labelled sheet."""

from __future__ import annotations

import json as json_format
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from versatile_diffusion.choices import unknown
from versatile_diffusion.cli.io.console import note, show, show_json, with_progress
from versatile_diffusion.cli.io.inputs import one_input
from versatile_diffusion.cli.options import Device, Dtype, Json, Model, Preview, tasks
from versatile_diffusion.controls import REQUEST, by_option, other_words
from versatile_diffusion.flow import Condition
from versatile_diffusion.printable import shown
from versatile_diffusion.tasks import TASKS

if TYPE_CHECKING:
    from PIL import Image

    from versatile_diffusion.pipeline.output import Output

OTHER_NAMES = {option: control.name for option, control in by_option(REQUEST).items()} | {"scale": "guidance_scale"}
"""Axis names besides the Python arguments."""
RANGE = re.compile(r"-?[\d.]+:-?[\d.]+(:[\d.]+)?")
MOST_CELLS = 256
FORM = "NAME=START:END[:STEP] (END excluded) or NAME=VALUE,VALUE,..."


@dataclass(frozen=True)
class Axis:
    """A setting and its values, e.g. `guidance_scale`, `seed` or `image.focus`."""

    name: str
    values: tuple[Any, ...]

    def labels(self) -> list[str]:
        return [f"{self.name} {value}" for value in self.values]


def axis(text: str) -> Axis:
    """Parse `guidance_scale=1:12:2`, `seed=0:4`, `style=noto,fluent-3d` or `image.weight=0.2,0.8`.

    Raises:
        ValueError: another form, or an empty range.
    """
    name, equals, values = text.partition("=")
    if not (name and equals and values):
        raise ValueError(f"--over is {shown(text)}; it must be {FORM}")
    found = _range(values) if RANGE.fullmatch(values) else [_value(one) for one in values.split(",")]
    if not found:
        raise ValueError(f"--over {text}: the range is empty; its end is excluded")
    return Axis(OTHER_NAMES.get(name, name), tuple(found))


def _range(text: str) -> list[Any]:
    start, end, step = (_value(piece) for piece in (text if text.count(":") == 2 else f"{text}:1").split(":"))
    if step == 0:
        raise ValueError(f"the step of {text} is 0")
    count = max(0, -int((start - end) // step))
    if count > MOST_CELLS:
        raise ValueError(f"{text} has {count} values; at most {MOST_CELLS} cells are allowed")
    return [round(start + k * step, 10) for k in range(count)]


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def cell(conditions: Sequence[Condition], choices: Sequence[tuple[str, Any]]) -> tuple[list[Condition], dict[str, Any]]:
    """Return the conditions and arguments of `generate` for one cell; `MODALITY.FIELD` sets a field of those
    conditions.

    Raises:
        ValueError: no condition of that modality, or no such field.
    """
    changed, arguments = list(conditions), {}
    for name, value in choices:
        modality, dot, field = name.partition(".")
        if not dot:
            arguments[name] = value
            continue
        places = [k for k, condition in enumerate(changed) if condition.modality == modality]
        if not places or field not in Condition.__dataclass_fields__:
            known = ", ".join(f"{condition.modality}.weight" for condition in conditions)
            raise ValueError(f"cannot sweep {shown(name)}; use e.g. {known}, or another field of a Condition")
        for place in places:
            changed[place] = replace(changed[place], **{field: value})
    return changed, arguments


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
    model: Model = "emoji",
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
    conditions, base = task_inputs(task, inputs), [one for text in fixed or () for one in _fixed(axis(text))]
    cells = list(product(*([(one.name, value) for value in one.values] for one in axes)))
    if len(axes) > 2 or len(cells) > MOST_CELLS:
        raise ValueError(f"{len(axes)} settings with {len(cells)} cells; at most 2 settings and {MOST_CELLS} cells")
    data, runs = TASKS[task].flow.data, [cell(conditions, [("seed", seed), *base, *choices]) for choices in cells]
    for changed, arguments in runs:
        check(data, changed, arguments)
    check_folder(out)
    pipe = load(model, device, dtype)
    outputs = [
        pipe.generate(data, changed, **arguments) for changed, arguments in with_progress(runs, f"{len(cells)} cells")
    ]
    file = save(outputs, axes, model, out)
    if json:
        record = {"axes": {one.name: list(one.values) for one in axes}, "file": str(file)}
        return show_json(record | {"cells": [cell_record(output) for output in outputs]})
    for choices, output in zip(cells, outputs, strict=True):
        if texts := cell_texts(output):
            show(f"{', '.join(f'{name} {value}' for name, value in choices)}: {' | '.join(texts)}")
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


def check(data: str, conditions: Sequence[Condition], arguments: Mapping[str, Any]) -> None:
    """Raise ValueError if a cell's request is invalid."""
    from versatile_diffusion.pipeline.request import Request

    known = {"seed", *OTHER_NAMES, *Request.__dataclass_fields__} - {"data", "conditions", "layer_plan"}
    if strange := arguments.keys() - Request.__dataclass_fields__.keys() - {"seed"}:
        rest = "; or a control, e.g. text.weight"
        raise ValueError(unknown("setting", min(strange), sorted(known), rest, other_words()))
    Request(data, tuple(conditions), **{name: value for name, value in arguments.items() if name != "seed"})


def _fixed(one: Axis) -> list[tuple[str, Any]]:
    if len(one.values) != 1:
        raise ValueError(f"--set {one.name} has {len(one.values)} values; only one is allowed; use --over for several")
    return [(one.name, one.values[0])]


def cell_record(output: Output) -> dict[str, Any]:
    """Return the record of one cell: its settings, and its texts if any."""
    texts = cell_texts(output)
    return {"settings": output.settings} | ({"texts": texts} if texts else {})


def cell_texts(output: Output) -> list[str]:
    """Return the values of a cell as text, if they cannot be drawn."""
    from versatile_diffusion.modalities import MODALITIES

    modality = MODALITIES[output.data]
    if modality.draw is not None:
        return []
    return list(output.values) if modality.plain else [modality.line(value) for value in output.values]


def save(outputs: Sequence[Output], axes: Sequence[Axis], model: str, folder: Path, name: str = "sweep") -> Path:
    """Write the sheet `name` as PNG with the settings of all cells embedded, or as JSON if the values cannot be
    drawn."""
    import torch

    from versatile_diffusion.cli.io.files import save_new, variants
    from versatile_diffusion.cli.io.results import put
    from versatile_diffusion.records.png import save_png

    record = {
        "sweep": [[one.name, list(one.values)] for one in axes],
        "cells": [cell_record(output) for output in outputs],
        "from_pretrained": model,
        "threads": torch.get_num_threads(),
    }
    if cell_texts(outputs[0]):
        text = json_format.dumps(record, ensure_ascii=False, indent=2) + "\n"
        return save_new(variants(folder / f"{name}.json"), partial(put, text))[0]
    return save_new(variants(folder / f"{name}.png"), partial(save_png, sheet(outputs, axes), record=record))[0]


def sheet(outputs: Sequence[Output], axes: Sequence[Axis]) -> Image.Image:
    """Draw the first value of each cell with labels: the first axis down (across, if it is the only one)."""
    from versatile_diffusion.modalities import MODALITIES
    from versatile_diffusion.sheets import labelled

    draw = MODALITIES[outputs[0].data].draw
    assert draw is not None
    rows = axes[0].labels() if len(axes) == 2 else [""]
    return labelled([draw(output.values[0]) for output in outputs], rows, axes[-1].labels())
