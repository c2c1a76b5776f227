"""From the settings of an output back to the arguments that made it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from versatile_diffusion.flow import Condition
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.sampling.focus import Focus
from versatile_diffusion.sampling.output import record_of
from versatile_diffusion.sampling.request import RAW, Request

Resolve = Callable[[dict[str, Any]], Any]
Check = Callable[[Any], Any]
PLAIN = ("weight", "guidance_scale", "start", "end")
NESTED = ("values", "tokens", "mask", "negative")


def arguments_of(settings: Mapping[str, Any], resolve: Resolve | None = None) -> dict[str, Any]:
    """Arguments of `VersatileDiffusionPipeline.generate`.

    Args:
        settings: of an Output, perhaps read back from JSON.
        resolve: finds the value of a record with a `sha256`; by default the file it names.

    Raises:
        ValueError: the settings are incomplete, or a value is missing or no longer the same.
    """
    plain = {f.name for f in fields(Request)} - {"data", *RAW}
    if missing := (plain | {"data", "latents", "seeds", *RAW}) - settings.keys():
        raise ValueError(f"the settings lack {', '.join(sorted(missing))}")
    data = MODALITIES[settings["data"]]
    return {
        "data": data.name,
        "conditions": [_condition(record, data.check_mask, resolve) for record in settings["conditions"]],
        "seed": list(settings["seeds"]),
        "start": _value(settings["start"], data.check, resolve),
        "repaint": _value(settings["repaint"], data.check_mask, resolve),
        "latents": _value(settings["latents"], None, resolve),
        **{name: settings[name] for name in plain},
    }


def _condition(record: Mapping[str, Any], check_part: Check | None, resolve: Resolve | None) -> Condition:
    """Args: record: of a condition. check_part: of masks of the canvas."""
    modality = MODALITIES[record["modality"]]
    checks = {"mask": modality.check_mask, "negative": modality.check, "values": modality.check}
    found = {name: _value(record[name], checks.get(name), resolve) for name in NESTED if name in record}
    options = {name: record[name] for name in PLAIN if name in record}
    focus = record.get("focus")
    return Condition(
        modality.name,
        found.get("values"),
        found.get("tokens"),
        mask=found.get("mask"),
        negative=found.get("negative"),
        focus=Focus(**focus) if isinstance(focus, Mapping) else focus,
        region=_value(record.get("region"), check_part, resolve),
        **options,
    )


def _value(record: Any, check: Check | None, resolve: Resolve | None) -> Any:
    """What a record stands for: lists and plain values as they are, the rest found and compared."""
    if isinstance(record, Sequence) and not isinstance(record, str):
        return [_value(one, check, resolve) for one in record]
    if not isinstance(record, Mapping):
        return record
    if "tokens" in record or "values" in record:
        kind = "tokens" if "tokens" in record else "values"
        return _value(record[kind], None if kind == "tokens" else check, resolve)
    found = _from_file(record, check) if resolve is None else resolve(dict(record))
    raw = check(found) if check else found
    if (now := record_of(None, raw)["sha256"]) != record["sha256"]:
        raise ValueError(f"{record.get('file', 'a value')} has changed: {now[:12]} now, {record['sha256'][:12]} then")
    return found


def _from_file(record: Mapping[str, Any], check: Check | None) -> Any:
    if "file" not in record or check is None:
        raise ValueError(
            f"a value of the settings ({record['sha256'][:12]}) is named by no file, so it must be resolved"
        )
    return record["file"]
