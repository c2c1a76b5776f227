"""Settings of a run on your own data from a file (`versatile train --from MODEL --config FILE`): a flat JSON object."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, is_dataclass, replace
from functools import cache
from itertools import groupby
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

import torch

from versatile_diffusion.choices import unknown
from versatile_diffusion.training.diffuser.mixture import check_by_flow, single_flows
from versatile_diffusion.training.diffuser.settings import DiffuserSettings
from versatile_diffusion.training.engine.config import LoopSettings
from versatile_diffusion.training.engine.optimizer import ParameterGroups

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

OF_THE_MODEL = ("stage", "unet", "data_streams", "context_streams", "new_contexts", "new_data", "flows")
"""Fields of `DiffuserSettings` that the model determines; `--flows` selects some of its flows."""
LOOP = get_type_hints(LoopSettings)
DIFFUSER = {name: hint for name, hint in get_type_hints(DiffuserSettings).items() if name not in OF_THE_MODEL}
ABOVE_0 = ("lr", "muon_lr", "minutes", "checkpoint_minutes", "eval_minutes", "sample_minutes")
FROM_0 = ("weight_decay",)
PARTS: tuple[type, ...] = tuple(
    one for hint in DIFFUSER.values() for one in get_args(hint) if isinstance(one, type) and is_dataclass(one)
)
"""Settings within settings: adapters and distillation."""
MOST_ITEMS = 1 << 20


@dataclass(frozen=True)
class Config:
    """The settings in a file.

    Args:
        loop: fields of `LoopSettings`.
        diffuser: fields of `DiffuserSettings` as plain JSON; see `read_changes`.
    """

    loop: Mapping[str, Any]
    diffuser: Mapping[str, Any]


def read_config(file: Path) -> Config:
    """Read the settings in a file and check everything that does not depend on the model.

    Raises:
        ValueError: no such file, not a JSON object, an unknown key, or a value of a wrong type or out of range. The
            message names the file, the key and what is allowed.
    """
    if not file.is_file():
        raise ValueError(f"--config is {file}, but there is no such file")
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f'{file} is not a JSON object; it must be one, such as {{"lr": 1e-4}}')
    try:
        _check(found)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    loop = _typed_values({name: value for name, value in found.items() if name in LOOP})
    return Config(loop, {name: value for name, value in found.items() if name in DIFFUSER})


def read_changes(options: DiffuserSettings, values: Mapping[str, Any]) -> dict[str, Any]:
    """The changes of a file to the settings of a model.

    Args:
        options: settings of the model.
        values: fields by name, as plain JSON. Flows that `mixture` omits are not trained; sizes that `batch` omits are
            unchanged.

    Returns:
        Fields by name, for `replace`.

    Raises:
        ValueError: an invalid value, or a name that the model lacks.
    """
    changes = _typed_values(values)
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
    """Raise ValueError for values that are invalid for every model."""
    hints = DIFFUSER | LOOP
    for name in found:
        if name not in hints:
            raise ValueError(unknown("setting", name, hints, "; --flows, --only and --aspect are options only"))
    _typed_values(found)
    LoopSettings(**{"steps": 1} | {name: value for name, value in found.items() if name in LOOP})
    model = _any_model()
    changes = read_changes(model, {name: value for name, value in found.items() if name in DIFFUSER})
    changes["multipliers"] = {name: factor or 1.0 for name, factor in changes.get("multipliers", {}).items()}
    replace(model, **changes | {"lora": None})  # whether all flows are trainable depends on the model
    if "optimizer" in found:  # try it on one parameter: checks the name, and that its package is installed
        ParameterGroups([], [torch.nn.Parameter(torch.zeros(1))]).optimizers(1e-3, 0.0, kind=found["optimizer"])


def _any_model() -> DiffuserSettings:
    """Settings of a model with all flows, whose prediction target is compatible with every other setting."""
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


@cache
def _model() -> type[BaseModel]:
    """The fields of both settings with their types and ranges, all optional."""
    from pydantic import ConfigDict, Field, create_model, with_config

    strict = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    for one in PARTS:
        with_config(strict)(one)
    ranges: dict[str, dict[str, Any]] = {name: {"gt": 0} for name in ABOVE_0} | {name: {"ge": 0} for name in FROM_0}
    fields: dict[str, Any] = {
        name: (hint, Field(default=None, **ranges.get(name, {}))) for name, hint in (DIFFUSER | LOOP).items()
    }
    return create_model("Settings", __config__=strict, **fields)


def _typed_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values of fields from plain JSON: tuples and adapters in place of lists and objects, numbers as written.

    Raises:
        ValueError: a value of a wrong type or out of range.
    """
    from pydantic import ValidationError

    try:
        checked = _model().model_validate_json(json.dumps(dict(values)))
    except ValidationError as error:
        raise ValueError("; ".join(_messages(error))) from error
    typed = {name: getattr(checked, name) for name in values}
    return {name: typed[name] if isinstance(typed[name], (tuple, *PARTS)) else value for name, value in values.items()}


def _messages(error: ValidationError) -> Iterator[str]:
    """One message for each invalid field; a field of several types has an error for each of them."""
    for field, errors in groupby(error.errors(include_url=False), key=lambda one: str(one["loc"][0])):
        found = list(errors)
        last = found[-1]
        if last["type"] == "unexpected_keyword_argument":
            allowed = next(get_type_hints(one) for one in get_args((DIFFUSER | LOOP)[field]) if one in PARTS)
            yield f"{field} has {last['loc'][-1]}; allowed: {', '.join(allowed)}"
            continue
        reasons = [_reason(one["msg"]) for one in found]
        if NoneType in get_args((DIFFUSER | LOOP)[field]) and last["type"] != "value_error":
            reasons.append("null")
        name = field if len(found) > 1 else ".".join(map(str, last["loc"]))
        yield f"{name} is {json.dumps(found[0]['input'])}; {' or '.join(dict.fromkeys(reasons))}"


def _reason(message: str) -> str:
    """Turn pydantic's "Input should be a valid number" into "it must be a valid number"."""
    return message.removeprefix("Value error, ").replace("Input should be", "it must be")
