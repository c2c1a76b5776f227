"""`versatile sweep`: the same task over one or two settings, as a labelled sheet."""

from __future__ import annotations

import json as json_format
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from versatile_diffusion.choices import unknown
from versatile_diffusion.cli.console import note, show, show_json, tracked
from versatile_diffusion.cli.inputs import one_input
from versatile_diffusion.cli.options import Device, Json, Model, Preview, tasks
from versatile_diffusion.flow import Condition
from versatile_diffusion.tasks import TASKS

if TYPE_CHECKING:
    from PIL import Image

    from versatile_diffusion.sampling.output import Output

OTHER_NAMES = {"steps": "num_inference_steps", "scale": "guidance_scale"}
RANGE = re.compile(r"-?[\d.]+:-?[\d.]+(:[\d.]+)?")
MOST_CELLS = 256
FORM = "NAME=START:END[:STEP] (END left out, as in Python) or NAME=VALUE,VALUE,..."


@dataclass(frozen=True)
class Axis:
    """A setting and the values that it takes, such as `guidance_scale`, `seed` or `image.focus`."""

    name: str
    values: tuple[Any, ...]

    def labels(self) -> list[str]:
        return [f"{self.name} {value}" for value in self.values]


def axis(text: str) -> Axis:
    """`guidance_scale=1:12:2`, `seed=0:4`, `style=noto,fluent-3d` or `image.weight=0.2,0.8`.

    Raises:
        ValueError: it is none of these forms, or a range with nothing in it.
    """
    name, equals, values = text.partition("=")
    if not (name and equals and values):
        raise ValueError(f"--over is {text!r}; it must be {FORM}")
    found = _range(values) if RANGE.fullmatch(values) else [_value(one) for one in values.split(",")]
    if not found:
        raise ValueError(f"--over {text}: there is nothing between these ends; the end itself is left out")
    return Axis(OTHER_NAMES.get(name, name), tuple(found))


def _range(text: str) -> list[Any]:
    start, end, step = (_value(piece) for piece in (text if text.count(":") == 2 else f"{text}:1").split(":"))
    if step == 0:
        raise ValueError(f"the step of {text} is 0")
    count = max(0, -int((start - end) // step))
    if count > MOST_CELLS:
        raise ValueError(f"{text} are {count} values; at most {MOST_CELLS} cells are allowed")
    return [round(start + k * step, 10) for k in range(count)]


def _value(text: str) -> Any:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def cell(conditions: Sequence[Condition], choices: Sequence[tuple[str, Any]]) -> tuple[list[Condition], dict[str, Any]]:
    """The conditions and arguments of `generate` for some choices; `MODALITY.FIELD` is a field of those conditions.

    Raises:
        ValueError: no condition has that modality, or no such field.
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
            raise ValueError(f"there is no {name!r} to go over; such as {known}, or another field of a Condition")
        for place in places:
            changed[place] = replace(changed[place], **{field: value})
    return changed, arguments


def sweep(
    task: Annotated[str, typer.Argument(autocompletion=tasks, help="A task, such as text-to-image.")],
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT", help="What guides it: a text, a file.")],
    over: Annotated[
        list[str],
        typer.Option(metavar="NAME=VALUES", help="guidance_scale=1:12:2, seed=0:4, style=a,b, image.focus=0,0.5,1 ..."),
    ],
    fixed: Annotated[
        list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="A setting that all cells share.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of all cells, unless it is gone over.")] = 0,
    model: Model = "emoji",
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("out"),
    device: Device = None,
    preview: Preview = None,
    json: Json = False,
) -> None:
    """Run a task over one setting (a row) or two (rows and columns), and draw what comes of it as a labelled sheet.

    The first --over goes down, the second across. Names are those of the options (`--steps` as steps), of the arguments
    in Python, or CONTEXT.FIELD for a control of what guides, such as text.weight.
    """
    from versatile_diffusion.cli.files import check_folder
    from versatile_diffusion.cli.model import load
    from versatile_diffusion.cli.results import Result

    axes = [axis(text) for text in over]
    conditions, base = task_inputs(task, inputs), [one for text in fixed or () for one in _fixed(axis(text))]
    cells = list(product(*([(one.name, value) for value in one.values] for one in axes)))
    if len(axes) > 2 or len(cells) > MOST_CELLS:
        raise ValueError(f"{len(axes)} settings with {len(cells)} cells; at most 2 settings and {MOST_CELLS} cells")
    data, runs = TASKS[task].flow.data, [cell(conditions, [("seed", seed), *base, *choices]) for choices in cells]
    for changed, arguments in runs:
        check(data, changed, arguments)
    check_folder(out)
    pipe = load(model, device)
    outputs = [pipe.generate(data, changed, **arguments) for changed, arguments in tracked(runs, f"{len(cells)} cells")]
    file = save(outputs, axes, model, out)
    if json:
        record = {"axes": {one.name: list(one.values) for one in axes}, "file": str(file)}
        return show_json(record | {"cells": [cell_record(output) for output in outputs]})
    for choices, output in zip(cells, outputs, strict=True):
        if output.data == "text":
            show(f"{', '.join(f'{name} {value}' for name, value in choices)}: {' | '.join(output.texts)}")
    Result(files=(file,)).show(preview) if data == "image" else show(str(file))
    note(f"{len(cells)} cells, {sum((one.cost.passes for one in outputs), start=0)} passes")


def task_inputs(task: str, inputs: Sequence[str]) -> list[Condition]:
    """Conditions of a task, one for each input; ValueError if there is no such task or another number of inputs."""
    if task not in TASKS:
        raise ValueError(unknown("task", task, TASKS))
    contexts = TASKS[task].flow.contexts
    if len(inputs) != len(contexts):
        raise ValueError(f"{task} takes {len(contexts)} inputs ({', '.join(contexts)}); got {len(inputs)}")
    return [Condition(m, one_input(m, value).value) for m, value in zip(contexts, inputs, strict=True)]


def check(data: str, conditions: Sequence[Condition], arguments: Mapping[str, Any]) -> None:
    """ValueError if a cell asks for what cannot be."""
    from versatile_diffusion.sampling.request import Request

    known = {"seed", *OTHER_NAMES, *Request.__dataclass_fields__} - {"data", "conditions", "layer_plan"}
    if strange := arguments.keys() - Request.__dataclass_fields__.keys() - {"seed"}:
        raise ValueError(unknown("setting", min(strange), sorted(known), "; or a control such as text.weight"))
    Request(data, tuple(conditions), **{name: value for name, value in arguments.items() if name != "seed"})


def _fixed(one: Axis) -> list[tuple[str, Any]]:
    if len(one.values) != 1:
        raise ValueError(f"--set {one.name} has {len(one.values)} values; one is allowed, --over takes several")
    return [(one.name, one.values[0])]


def cell_record(output: Output) -> dict[str, Any]:
    """What a saved sheet says of one cell: its settings, and its texts if it has some."""
    return {"settings": output.settings} | ({"texts": output.texts} if output.data == "text" else {})


def save(outputs: Sequence[Output], axes: Sequence[Axis], model: str, folder: Path, name: str = "sweep") -> Path:
    """Writes the sheet as PNG with the settings of all cells inside; texts as JSON. `name` is the file's."""
    import torch

    from versatile_diffusion.cli.files import free_path
    from versatile_diffusion.sampling.metadata import save_png

    folder.mkdir(parents=True, exist_ok=True)
    record = {
        "sweep": [[one.name, list(one.values)] for one in axes],
        "cells": [cell_record(output) for output in outputs],
        "from_pretrained": model,
        "threads": torch.get_num_threads(),
    }
    if outputs[0].data == "text":
        file = free_path(folder / f"{name}.json")
        file.write_text(json_format.dumps(record, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    else:
        file = free_path(folder / f"{name}.png")
        save_png(sheet(outputs, axes), file, record)
    return file


def sheet(outputs: Sequence[Output], axes: Sequence[Axis]) -> Image.Image:
    """The first picture of each cell, labelled: the first axis goes down (across, where it is the only one)."""
    from versatile_diffusion.cli.sheet import labelled

    rows = axes[0].labels() if len(axes) == 2 else [""]
    return labelled([output.images[0] for output in outputs], rows, axes[-1].labels())
