"""What was filled in, written into every output and read back from it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from versatile_diffusion.applications import joint
from versatile_diffusion.applications.variation import COLOURS
from versatile_diffusion.sampling.metadata import read_record
from versatile_diffusion.ui.controls import CONTROLS, HANDLES
from versatile_diffusion.ui.forms import sample_pictures
from versatile_diffusion.ui.shelf import STUDIO, Shelf, lines
from versatile_diffusion.ui.uploads import canvas, digest, read_mask, read_picture
from versatile_diffusion.ui.widgets import is_painter, is_picture

if TYPE_CHECKING:
    from versatile_diffusion import VersatileDiffusionPipeline

PLAIN = (str, int, float, bool, type(None))
LARGEST_FILE = 25_000_000  # bytes
LONGEST = 2000  # characters of a value


def filled_in(inputs: Mapping[str, Any], values: Mapping[str, Any], shelf: Shelf) -> dict[str, Any]:
    """Values of a form as plain JSON: pictures by what settings call them (the shelf learns where they are), masks as
    they were painted."""
    return {name: _written(inputs[name], value, shelf) for name, value in values.items() if value is not None}


def _written(component: Any, value: Any, shelf: Shelf) -> Any:
    if is_picture(component):
        try:
            picture = read_picture(value)
        except ValueError:
            return None  # what the run had no use for, nobody has read before
        assert picture is not None
        shelf.inputs[name := digest(picture)] = value
        return {"sha256": name}
    if is_painter(component):
        return {"mask": value.get("mask")} if isinstance(value, Mapping) and value.get("mask") else None
    return value if isinstance(value, PLAIN) else None


def restored(
    path: str | None, places: Mapping[str, Mapping[str, Any]], shelf: Shelf, pipe: VersatileDiffusionPipeline
) -> tuple[str, dict[str, Any], str]:
    """The tab that a file belongs to, what is to be filled in there, and a sentence about it.

    Args:
        path: of an uploaded file: a PNG with settings inside, or a JSON of texts.
        places: the inputs of each tab, by name.
        shelf: knows pictures that were used in this session.

    Raises:
        ValueError: in words for people.
    """
    record = _record(path)
    told = record.get(STUDIO)
    name, fields = _from_studio(told) if isinstance(told, Mapping) else _from_settings(record)
    if name not in places:
        raise ValueError(f"this file was made by {name or 'a task'!r}, and this studio has no such tab")
    inputs = places[name]
    known = {digest(picture): str(file) for file in sample_pictures() if (picture := read_picture(str(file)))}
    find = {**known, **shelf.inputs}.get
    ready, missing = {}, []
    for field, component in inputs.items():
        if field not in fields:
            continue
        ready[field] = _read(component, fields[field], find)
        missing += [component.label] if is_picture(component) and ready[field] is None else []
    for field, component in inputs.items():
        if is_painter(component) and field in ready:
            below = ready.get(field.partition(".")[0])
            ready[field] = canvas(read_picture(below), ready[field]) if isinstance(below, str) else None
    return name, ready, _sentence(record, pipe, missing)


def _sentence(record: Mapping[str, Any], pipe: VersatileDiffusionPipeline, missing: Sequence[str]) -> str:
    said = "The settings are back."
    model = record.get("model")
    if isinstance(model, Mapping) and model.get("name") not in (None, pipe.model_name):
        said += f" They are of another model ({str(model['name'])[:60]}), so the result will differ."
    if missing:
        names = ", ".join(f"\u201c{name}\u201d" for name in missing)
        said += f" Pictures that were put in are not inside the file, so please add again: {names}."
    return said


def _record(path: str | None) -> dict[str, Any]:
    nothing = "this file holds no settings; only files that were made by this library do"
    if path is None:
        raise ValueError(nothing)
    if Path(path).stat().st_size > LARGEST_FILE:
        raise ValueError("this file is too large to be one of ours")
    try:
        if Path(path).suffix.lower() == ".json":
            record = json.loads(Path(path).read_text(encoding="utf-8"))
        else:
            with Image.open(path) as opened:
                record = read_record(opened, "this picture")
    except (OSError, SyntaxError, UnicodeDecodeError, json.JSONDecodeError, Image.DecompressionBombError) as error:
        raise ValueError(nothing) from error
    except ValueError as error:
        raise ValueError(str(error).partition(";")[0] + "; only files that were made by this library do") from error
    if not isinstance(record, dict):
        raise ValueError(nothing)
    return record


def _from_studio(told: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    fields = told.get("fields")
    return str(told.get("tab")), fields if isinstance(fields, Mapping) else {}


def _from_settings(record: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Fields of a task's tab for settings from the command line or from Python."""
    conditions = record.get("conditions")
    if not isinstance(conditions, list):
        raise ValueError("the settings in this file are of a kind that the studio cannot fill in")
    said = ((name, c.argument and record.get(c.argument)) for name, c in CONTROLS.items())
    fields: dict[str, Any] = {name: value for name, value in said if value is not None}
    seeds = record.get("seeds")
    if "seed" in record or (isinstance(seeds, list) and seeds):
        fields["seed"] = record.get("seed", seeds and seeds[0])
    if "index" in record:
        fields["count"] = 1
    fields |= _unfolded(record)
    for condition in conditions:
        name = str(condition.get("modality")) if isinstance(condition, Mapping) else ""
        values = condition.get("values") if isinstance(condition, Mapping) else None
        fields[name] = values[0] if isinstance(values, list) and values else values
        for handle, row in HANDLES.items():
            value = condition.get(row.field) if isinstance(condition, Mapping) else None
            if isinstance(value, int | float) and not isinstance(value, bool):
                fields[f"{name}.{handle}"] = value
    application = record.get("application")
    if isinstance(application, Mapping) and application.get("name") == joint.NAME:
        return joint.NAME, fields | dict(application.get("exchange") or {})
    return str(record.get("task")), fields


def _unfolded(record: Mapping[str, Any]) -> dict[str, Any]:
    """What controls show in another form than settings have it."""
    fields: dict[str, Any] = {}
    interval, plan, colours = (record.get(name) for name in ("guidance_interval", "layer_plan", COLOURS))
    if isinstance(interval, list) and len(interval) == 2:
        fields |= dict(zip(("guidance_from", "guidance_until"), interval, strict=True))
    if isinstance(plan, list) and all(isinstance(row, list) for row in plan):
        fields["layer_plan"] = lines(plan)
    if isinstance(colours, Mapping):
        fields["match_colours"] = colours.get("method")
    return fields


def _read(component: Any, value: Any, find: Callable[[str], str | None]) -> Any:
    """The value for a component; nothing from a file is trusted."""
    if is_picture(component):
        name = value.get("sha256") if isinstance(value, Mapping) else None
        return find(name) if isinstance(name, str) else None
    if is_painter(component):
        return read_mask(value)
    if not isinstance(value, PLAIN) or (isinstance(value, str) and len(value) > LONGEST):
        return None
    choices = getattr(component, "choices", None)
    own = getattr(component, "allow_custom_value", False) and isinstance(value, str)
    if choices is not None and not own and value not in [choice[1] for choice in choices]:
        return component.value
    low, high = getattr(component, "minimum", None), getattr(component, "maximum", None)
    if isinstance(value, int | float) and low is not None and high is not None:
        return min(max(value, low), high)
    return value
