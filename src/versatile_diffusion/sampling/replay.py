"""From the settings of an output back to the arguments that made it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from torch import Tensor

from versatile_diffusion.choices import unknown
from versatile_diffusion.flow import Condition
from versatile_diffusion.modalities import MODALITIES, Modality
from versatile_diffusion.sampling.focus import Focus
from versatile_diffusion.sampling.output import Output, record_of
from versatile_diffusion.sampling.request import RAW, Request

Resolve = Callable[[dict[str, Any]], Any]
Check = Callable[[Any], Any]
PLAIN = ("weight", "guidance_scale", "start", "end")
NESTED = ("values", "tokens", "mask", "negative")
FIELDS = tuple(f.name for f in fields(Request) if f.name not in ("data", *RAW))
"""Of a request, what a record has as it is."""


def arguments_of(settings: Mapping[str, Any], resolve: Resolve | None = None) -> dict[str, Any]:
    """Arguments of `VersatileDiffusionPipeline.generate`.

    Args:
        settings: of an Output, perhaps read back from JSON.
        resolve: finds the value of a record with a `sha256`; by default the file it names.

    Raises:
        ValueError: the settings are incomplete, or a value is missing or no longer the same.
    """
    if missing := ({*FIELDS, *RAW} | {"data", "latents", "seeds"}) - settings.keys():
        raise ValueError(f"the settings lack {', '.join(sorted(missing))}")
    try:
        return _arguments(settings, resolve)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the settings are damaged ({type(error).__name__}: {error})") from error


def item_of(output: Output, settings: Mapping[str, Any]) -> Output:
    """The item that settings are of, or the whole output where they name none; ValueError if there is no such item."""
    if "index" not in settings:
        return output
    if type(index := settings["index"]) is not int or index not in range(len(output)):
        raise ValueError(f"the settings are of item {index!r}; there are 0 to {len(output) - 1}")
    return output[index]


def _arguments(settings: Mapping[str, Any], resolve: Resolve | None) -> dict[str, Any]:
    data = _modality(settings["data"])
    return {
        "data": data.name,
        "conditions": [_condition(record, data.check_mask, resolve) for record in settings["conditions"]],
        "seed": list(settings["seeds"]),
        "start": value_of(settings["start"], data.check, resolve),
        "repaint": value_of(settings["repaint"], data.check_mask, resolve),
        "latents": value_of(settings["latents"], None, resolve),
        **{name: settings[name] for name in FIELDS},
    }


def _condition(record: Mapping[str, Any], check_part: Check | None, resolve: Resolve | None) -> Condition:
    """Args: record: of a condition. check_part: of masks of the canvas."""
    modality = _modality(record["modality"])
    checks = {"mask": modality.check_mask, "negative": modality.check, "values": modality.check}
    found = {name: value_of(record[name], checks.get(name), resolve) for name in NESTED if name in record}
    options = {name: record[name] for name in PLAIN if name in record}
    focus = record.get("focus")
    return Condition(
        modality.name,
        found.get("values"),
        found.get("tokens"),
        mask=found.get("mask"),
        negative=found.get("negative"),
        focus=Focus(**focus) if isinstance(focus, Mapping) else focus,
        region=value_of(record.get("region"), check_part, resolve),
        **options,
    )


def _modality(name: Any) -> Modality:
    if name not in MODALITIES:
        raise ValueError(unknown("modality", name, MODALITIES))
    return MODALITIES[name]


def value_of(record: Any, check: Check | None = None, resolve: Resolve | None = None) -> Any:
    """What a record of a value stands for: lists and plain values as they are, the rest found and compared.

    Args:
        record: see `sampling.output.record_of`.
        check: makes a raw value of what was found.
        resolve: see `arguments_of`.

    Raises:
        ValueError: the value is missing, or no longer the same.
    """
    if isinstance(record, Sequence) and not isinstance(record, str):
        return [value_of(one, check, resolve) for one in record]
    if not isinstance(record, Mapping):
        return record
    if "tokens" in record or "values" in record:
        kind = "tokens" if "tokens" in record else "values"
        return value_of(record[kind], None if kind == "tokens" else check, resolve)
    found = _from_file(record, check) if resolve is None else resolve(dict(record))
    raw = check(found) if check and not isinstance(found, Tensor) else found  # latents stand in place of a value
    if (now := record_of(None, raw)["sha256"]) != record["sha256"]:
        raise ValueError(f"{record.get('file', 'a value')} has changed: {now[:12]} now, {record['sha256'][:12]} then")
    return found


def _from_file(record: Mapping[str, Any], check: Check | None) -> Any:
    if "file" not in record or check is None:
        raise ValueError(
            f"a value of the settings ({record['sha256'][:12]}) is named by no file, so it must be resolved"
        )
    return record["file"]
