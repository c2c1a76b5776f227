"""From the settings of an output back to the arguments that made it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from versatile_diffusion.flow import Condition
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.sampling.output import record_of
from versatile_diffusion.sampling.request import Request

Resolve = Callable[[dict[str, Any]], Any]


def arguments_of(settings: Mapping[str, Any], resolve: Resolve | None = None) -> dict[str, Any]:
    """Arguments of `VersatileDiffusionPipeline.generate`.

    Args:
        settings: of an Output, perhaps read back from JSON.
        resolve: finds the value of a record with a `sha256`; by default the file it names.

    Raises:
        ValueError: the settings are incomplete, or a value is missing or no longer the same.
    """
    plain = {f.name for f in fields(Request)} - {"conditions", "data", "start"}
    if missing := (plain | {"conditions", "data", "start", "latents", "seeds"}) - settings.keys():
        raise ValueError(f"the settings lack {', '.join(sorted(missing))}")
    data = settings["data"]
    return {
        "data": data,
        "conditions": [_condition(record, resolve) for record in settings["conditions"]],
        "seed": list(settings["seeds"]),
        "start": _value(settings["start"], data, resolve),
        "latents": _value(settings["latents"], None, resolve),
        **{name: settings[name] for name in plain},
    }


def _condition(record: Mapping[str, Any], resolve: Resolve | None) -> Condition:
    modality, weight = record["modality"], record["weight"]
    if "tokens" in record:
        return Condition(modality, tokens=_value(record["tokens"], None, resolve), weight=weight)
    values = [_value(value, modality, resolve) for value in record["values"]]
    masks = [_value(mask, None, resolve) for mask in record["masks"]] if "masks" in record else None
    return Condition(modality, values, weight=weight, mask=masks)


def _value(record: Any, modality: str | None, resolve: Resolve | None) -> Any:
    if not isinstance(record, Mapping):
        return record
    found = _from_file(record, modality) if resolve is None else resolve(dict(record))
    raw = MODALITIES[modality].check(found) if modality else found
    if (now := record_of(None, raw)["sha256"]) != record["sha256"]:
        raise ValueError(f"{record.get('file', 'a value')} has changed: {now[:12]} now, {record['sha256'][:12]} then")
    return found


def _from_file(record: Mapping[str, Any], modality: str | None) -> Any:
    if "file" not in record or modality is None:
        raise ValueError(
            f"a value of the settings ({record['sha256'][:12]}) is named by no file, so it must be resolved"
        )
    return record["file"]
