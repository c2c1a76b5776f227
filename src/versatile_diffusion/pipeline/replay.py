"""Conversion of an output's settings back to arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from types import NoneType
from typing import Any

import numpy as np
from torch import Tensor

from versatile_diffusion.choices import chosen
from versatile_diffusion.controls import RAW, REQUEST
from versatile_diffusion.flow import Condition
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.numeric import is_number
from versatile_diffusion.pipeline.models import NETWORK_PATH
from versatile_diffusion.pipeline.output import Output
from versatile_diffusion.printable import shown
from versatile_diffusion.reading import entry, only
from versatile_diffusion.records.record import record_of
from versatile_diffusion.sampling.focus import Focus
from versatile_diffusion.sampling.seeds import BITS

EARLIER: Mapping[str, Any] = {"layer_bits": 32, "fast": "off"}
"""Settings missing in earlier versions, and their values then."""
FOCUS = tuple(f.name for f in fields(Focus))
Resolve = Callable[[dict[str, Any]], Any]
Check = Callable[[Any], Any]
PLAIN = ("weight", "guidance_scale", "start", "end")
NESTED = ("values", "tokens", "mask", "negative")
VALUES = ("conditions", *RAW)
FIELDS = tuple(name for name in REQUEST if name not in RAW)
"""Request fields that a record stores as is."""


def arguments_of(settings: Mapping[str, Any], resolve: Resolve | None = None) -> dict[str, Any]:
    """Return the arguments of `VersatileDiffusionPipeline.generate`.

    Args:
        settings: settings of an Output, possibly from JSON.
        resolve: returns the value of a record with a `sha256`; by default reads the recorded file.

    Raises:
        ValueError: incomplete settings, or a missing or changed value.
    """
    settings = {**EARLIER, **settings}
    if missing := ({*FIELDS, *VALUES} | {"data", "latents", "seeds"}) - settings.keys():
        raise ValueError(f"the settings lack {', '.join(sorted(missing))}")
    data = MODALITIES[chosen("modality", settings["data"], MODALITIES)]
    conditions = entry(settings, "conditions", Sequence)
    fidelity = fidelity_now(settings)
    ignored = fidelity != settings["fidelity"] and not fidelity and settings["repaint"] is None
    return {
        **{name: settings[name] for name in FIELDS},
        "data": data.name,
        "conditions": [_condition(record, data.check_mask, resolve) for record in conditions],
        "seed": [seed_now(settings, seed) for seed in entry(settings, "seeds", Sequence)],
        "start": None if ignored else value_of(settings["start"], data.check, resolve, data.numbers),
        "fidelity": fidelity,
        "repaint": value_of(settings["repaint"], data.check_mask, resolve),
        "latents": value_of(settings["latents"], None, resolve),
    }


def item_of(output: Output, settings: Mapping[str, Any]) -> Output:
    """Return the item that the settings belong to, or the whole output if they name none; ValueError if out of
    range."""
    if "index" not in settings:
        return output
    if type(index := settings["index"]) is not int or index not in range(len(output)):
        raise ValueError(f"the settings are of item {shown(index)}; there are 0 to {len(output) - 1}")
    return output[index]


def seed_now(settings: Mapping[str, Any], seed: Any) -> Any:
    """Convert a recorded seed: earlier versions used only 32 bits of it."""
    return seed % 2**32 if type(seed) is int and settings.get("seed_bits") != BITS else seed


def fidelity_now(settings: Mapping[str, Any]) -> Any:
    """Convert a recorded fidelity: earlier versions rounded it to a number of steps, which could be none or all."""
    steps, fidelity = settings["num_inference_steps"], settings["fidelity"]
    numbers = is_number(steps) and is_number(fidelity) and 0 <= fidelity <= 1
    if "start_steps" in settings or not numbers:
        return fidelity
    return {0: 0.0, steps: 1.0}.get(round(steps * fidelity), fidelity)


def _condition(record: Any, check_part: Check | None, resolve: Resolve | None) -> Condition:
    """Args: record: record of a condition. check_part: checks masks of the canvas."""
    modality = MODALITIES[chosen("modality", entry(record, "modality", object), MODALITIES)]
    checks = {"mask": modality.check_mask, "negative": modality.check, "values": modality.check}
    numbers = {"negative": modality.numbers, "values": modality.numbers}
    found = {
        name: value_of(record[name], checks.get(name), resolve, numbers.get(name, np.asarray))
        for name in NESTED
        if name in record
    }
    options = {name: record[name] for name in PLAIN if name in record}
    focus = record.get("focus")
    return Condition(
        modality.name,
        found.get("values"),
        found.get("tokens"),
        mask=found.get("mask"),
        negative=found.get("negative"),
        focus=Focus(**{"level": None, **only(focus, FOCUS)}) if isinstance(focus, Mapping) else focus,
        region=value_of(record.get("region"), check_part, resolve),
        **options,
    )


def value_of(
    record: Any, check: Check | None = None, resolve: Resolve | None = None, numbers: Check = np.asarray
) -> Any:
    """Return the value of a record: lists and plain values as is, others resolved and compared by hash.

    Args:
        record: see `records.record.record_of`.
        check: converts the resolved object to a raw value.
        resolve: see `arguments_of`.
        numbers: returns the array to hash.

    Raises:
        ValueError: a missing or changed value.
    """
    if isinstance(record, Sequence) and not isinstance(record, str):
        return [value_of(one, check, resolve, numbers) for one in record]
    if not isinstance(record, Mapping):
        return record
    if "tokens" in record or "values" in record:
        kind = "tokens" if "tokens" in record else "values"
        return value_of(record[kind], None if kind == "tokens" else check, resolve, numbers)
    then, file = entry(record, "sha256", str), entry({"file": None, **record}, "file", (str, NoneType))
    entry({"shape": [], **record}, "shape", Sequence)
    found = _from_file(record, check) if resolve is None else resolve(dict(record))
    raw = check(found) if check and not isinstance(found, Tensor) else found  # latents are used as is
    if isinstance(raw, str):
        raise ValueError(f"the settings are damaged: a hash ({then[:12]}) is recorded for a text")
    if (now := record_of(None, raw, numbers)["sha256"]) != then:
        raise ValueError(f"{file or 'a value'} has changed: its hash was {then[:12]}, now {now[:12]}")
    return found


def _from_file(record: Mapping[str, Any], check: Check | None) -> Any:
    if record.get("file") is None or check is None or NETWORK_PATH.match(record["file"]):
        raise ValueError(
            f"a value of the settings ({record['sha256'][:12]}) has no recorded file; pass resolve to provide it"
        )
    return record["file"]
