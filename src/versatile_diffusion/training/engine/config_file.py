"""Settings of a run on own data from a file (`versatile train --from MODEL --config FILE`): one flat JSON object."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import torch

from versatile_diffusion.choices import unknown
from versatile_diffusion.training.diffuser.mixture import check_by_flow, single_flows
from versatile_diffusion.training.diffuser.objective import DiffuserSettings
from versatile_diffusion.training.engine.config import LoopSettings
from versatile_diffusion.training.engine.optimizer import ParameterGroups

OF_THE_MODEL = ("stage", "unet", "data_streams", "context_streams", "new_contexts", "flows")
"""Fields of `DiffuserSettings` that the model decides; `--flows` trains some of its flows alone."""
LOOP = get_type_hints(LoopSettings)
DIFFUSER = {name: hint for name, hint in get_type_hints(DiffuserSettings).items() if name not in OF_THE_MODEL}
KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", NoneType: "null"}
ABOVE_0 = ("lr", "muon_lr", "minutes", "checkpoint_minutes", "eval_minutes", "sample_minutes")
MOST_ITEMS = 1 << 20


@dataclass(frozen=True)
class Config:
    """What a file says.

    Args:
        loop: fields of `LoopSettings`.
        diffuser: fields of `DiffuserSettings`, plain JSON; see `configured`.
    """

    loop: Mapping[str, Any]
    diffuser: Mapping[str, Any]


def read_config(file: Path) -> Config:
    """The settings in a file, checked as far as no model is needed.

    Raises:
        ValueError: there is no such file, it is no JSON object, or it has an unknown key, or a value of another type or
            out of range. The message names the file, the key and what is allowed.
    """
    if not file.is_file():
        raise ValueError(f"--config is {file}, and there is no such file")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f'{file} holds {_kind(type(found))}; it must be one JSON object, such as {{"lr": 1e-4}}')
    try:
        _check(found)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    loop = {name: _made(value, LOOP[name]) for name, value in found.items() if name in LOOP}
    return Config(loop, {name: value for name, value in found.items() if name in DIFFUSER})


def configured(options: DiffuserSettings, values: Mapping[str, Any]) -> dict[str, Any]:
    """What a file changes of settings.

    Args:
        options: those of the model.
        values: fields by name, plain JSON. Flows that `mixture` leaves out are not trained; what `batch` leaves out
            stays as it is.

    Returns:
        Fields by name, for `replace`.

    Raises:
        ValueError: a value is not allowed, or names what the model has not.
    """
    changes = {name: _made(value, DIFFUSER[name]) for name, value in values.items()}
    streams = dict.fromkeys(name for stream in ("global", *options.streams) for name in (stream.split(".")[0], stream))
    known = {"mixture": options.mixture, "dropout": options.context_streams, "multipliers": streams}
    for name, allowed in known.items():
        table = changes.get(name)
        if isinstance(table, Mapping) and (bad := [key for key in table if key not in allowed]):
            raise ValueError(f"{name} has {', '.join(bad)}; allowed: {', '.join(allowed)}")
    if "mixture" in changes:
        changes["mixture"] = dict.fromkeys(options.mixture, 0) | changes["mixture"]
    if "batch" in changes:
        check_by_flow("batch", changes["batch"], 1, MOST_ITEMS)
        changes["batch"] = {**options.batch, **changes["batch"]}
    return changes


def _check(found: Mapping[str, Any]) -> None:
    """Raises ValueError where a value is wrong whatever the model."""
    hints = DIFFUSER | LOOP
    for name, value in found.items():
        if name not in hints:
            raise ValueError(unknown("setting", name, hints, "; --flows, --only and --aspect are options alone"))
        if not _fits(value, hints[name]):
            raise ValueError(f"{name} is {json.dumps(value)}; it must be {_kind(hints[name])}")
        if name in ABOVE_0 and value is not None and value <= 0:
            raise ValueError(f"{name} is {value}; it must be above 0")
    if found.get("weight_decay", 0) < 0:
        raise ValueError(f"weight_decay is {found['weight_decay']}; it must be 0 or more")
    LoopSettings(**{"steps": 1} | {name: value for name, value in found.items() if name in LOOP})
    model = _any_model()
    changes = configured(model, {name: value for name, value in found.items() if name in DIFFUSER})
    changes["multipliers"] = {name: factor or 1.0 for name, factor in changes.get("multipliers", {}).items()}
    replace(model, **changes | {"lora": None})  # whether all flows learn is up to the model and --flows
    if "optimizer" in found:  # tried on one number: the name, and what it needs
        ParameterGroups([], [torch.nn.Parameter(torch.zeros(1))]).optimizers(1e-3, 0.0, kind=found["optimizer"])


def _any_model() -> DiffuserSettings:
    """Settings of a model that can do all that is trained, and whose prediction goes with everything."""
    flows = {name: task.flow for name, task in single_flows().items()}
    return DiffuserSettings(
        stage="official",
        flows=tuple(flows),
        unet={},
        data_streams={flow.data: {} for flow in flows.values()},
        context_streams={context: {} for flow in flows.values() for context in flow.contexts},
        mixture=dict.fromkeys(flows, 1),
        batch={flow.data: 1 for flow in flows.values()},
        prediction="v_prediction",
    )


def _fits(value: Any, hint: Any) -> bool:
    """Whether a JSON value is of a field's type."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is tuple:
        return isinstance(value, list) and all(_fits(one, inner[0]) for one in value)
    if origin is Mapping:
        return isinstance(value, dict) and all(_fits(one, inner[1]) for one in value.values())
    if is_dataclass(hint):
        hints = get_type_hints(hint)
        return isinstance(value, dict) and all(name in hints and _fits(one, hints[name]) for name, one in value.items())
    if hint is float:
        return type(value) in (int, float) and math.isfinite(value)
    return type(value) is hint


def _made(value: Any, hint: Any) -> Any:
    """What a field holds, of a JSON value that fits."""
    made: Any = next((one for one in get_args(hint) if is_dataclass(one)), None)
    if isinstance(value, dict) and made is not None:
        hints = get_type_hints(made)
        return made(**{name: _made(one, hints[name]) for name, one in value.items()})
    return tuple(value) if isinstance(value, list) else value


def _kind(hint: Any) -> str:
    """A type in words."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(_kind(one) for one in inner)
    if origin is tuple or hint is list:
        return f"a list, each {_kind(inner[0])}" if inner else "a list"
    if origin is Mapping:
        return f"an object of names, each with {_kind(inner[1])}"
    if is_dataclass(hint):
        return f"an object of {', '.join(get_type_hints(hint))}"
    return KINDS[hint]
