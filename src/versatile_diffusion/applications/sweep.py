"""One task over one or two settings: its cells, their sheet, and the record from which they are reproduced."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

from versatile_diffusion.choices import unknown
from versatile_diffusion.controls import REQUEST, by_option, other_words
from versatile_diffusion.flow import Condition
from versatile_diffusion.printable import shown
from versatile_diffusion.reading import entry

if TYPE_CHECKING:
    from PIL import Image

    from versatile_diffusion.pipeline.output import Output
    from versatile_diffusion.pipeline.pipeline import VersatileDiffusionPipeline
    from versatile_diffusion.pipeline.replay import Resolve

OTHER_NAMES = {option: control.name for option, control in by_option(REQUEST).items()} | {"scale": "guidance_scale"}
"""Axis names besides the Python arguments."""
RANGE = re.compile(r"-?[\d.]+:-?[\d.]+(:[\d.]+)?")
MOST_CELLS = 256
FORM = "NAME=START:END[:STEP] (END excluded) or NAME=VALUE,VALUE,..."
Choices = Sequence[tuple[str, Any]]
"""Setting and value of each axis in one cell."""


@dataclass(frozen=True)
class Axis:
    """A setting and its values, e.g. `guidance_scale`, `seed` or `image.focus`."""

    name: str
    values: tuple[Any, ...]

    def labels(self) -> list[str]:
        return [f"{self.name} {value}" for value in self.values]


@dataclass(frozen=True)
class Cell:
    """One run of a sweep: the conditions and arguments of `generate`."""

    conditions: list[Condition]
    arguments: dict[str, Any]


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


def choices(axes: Sequence[Axis]) -> Iterator[Choices]:
    """Yield the settings of every cell, the last axis fastest; lazily, since there may be many."""
    return product(*([(one.name, value) for value in one.values] for one in axes))


def cell(conditions: Sequence[Condition], settings: Choices) -> Cell:
    """Return the run with these settings; `MODALITY.FIELD` sets a field of the conditions of that modality.

    Raises:
        ValueError: no condition of that modality, or no such field.
    """
    changed, arguments = list(conditions), {}
    for name, value in settings:
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
    return Cell(changed, arguments)


def check(data: str, one: Cell) -> None:
    """Raise ValueError if a cell's request is invalid."""
    from versatile_diffusion.pipeline.request import Request

    known = {"seed", *OTHER_NAMES, *Request.__dataclass_fields__} - {"data", "conditions", "layer_plan"}
    if strange := one.arguments.keys() - Request.__dataclass_fields__.keys() - {"seed"}:
        rest = "; or a control, e.g. text.weight"
        raise ValueError(unknown("setting", min(strange), sorted(known), rest, other_words()))
    Request(data, tuple(one.conditions), **{name: value for name, value in one.arguments.items() if name != "seed"})


def record(outputs: Sequence[Output], axes: Sequence[Axis], model: str) -> dict[str, Any]:
    """Return what `replay` needs to reproduce all cells."""
    import torch

    return {
        "sweep": [[one.name, list(one.values)] for one in axes],
        "cells": [cell_record(output) for output in outputs],
        "from_pretrained": model,
        "threads": torch.get_num_threads(),
    }


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


def sheet(outputs: Sequence[Output], axes: Sequence[Axis]) -> Image.Image:
    """Draw the first value of each cell with labels: the first axis down (across, if it is the only one)."""
    from versatile_diffusion.modalities import MODALITIES
    from versatile_diffusion.sheets import label_grid

    draw = MODALITIES[outputs[0].data].draw
    assert draw is not None
    rows = axes[0].labels() if len(axes) == 2 else [""]
    return label_grid([draw(output.values[0]) for output in outputs], rows, axes[-1].labels())


def replay(
    pipe: VersatileDiffusionPipeline, saved: Mapping[str, Any], resolve: Resolve | None = None
) -> Image.Image | list[str]:
    """Reproduce the sheet of a sweep, or its texts, from its record.

    Raises:
        ValueError: a damaged record, another model, or a missing or changed value.
    """
    from versatile_diffusion.applications import again

    cells = [entry(one, "settings", dict) for one in entry(saved, "cells", list)]
    axes = [_axis_of(one) for one in entry(saved, "sweep", list)]
    if not cells or len(axes) not in (1, 2) or len(cells) != math.prod(len(one.values) for one in axes):
        raise ValueError(f"the settings are damaged: {len(cells)} cells over {len(axes)} settings")
    outputs = [again.replay(pipe, settings, resolve) for settings in cells]
    if len({output.data for output in outputs}) > 1:
        raise ValueError("the settings are damaged: the cells have several modalities")
    if "texts" in saved["cells"][0]:
        return [text for output in outputs for text in cell_texts(output)]
    return sheet(outputs, axes)


def _axis_of(saved: Any) -> Axis:
    """Read an axis from a record: a setting and its values."""
    if not isinstance(saved, list) or [type(part) for part in saved] != [str, list]:
        raise ValueError(f"the settings are damaged: {shown(saved)} is not a setting with its values")
    return Axis(saved[0], tuple(saved[1]))
