"""What a model's folder says of itself, by its indexes and the headers of its weights: no weights are read, and nothing
heavy is imported."""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from versatile_diffusion.flow import Flow
from versatile_diffusion.printable import shown
from versatile_diffusion.reading import parse_json, read_json
from versatile_diffusion.sampling.names import scheduler_of_class
from versatile_diffusion.shipped import INDEX
from versatile_diffusion.tasks import TASKS

MOST_HEADER = 100_000_000
"""Maximum size of a safetensors header in bytes, as in that library."""
BUFFERS = ("running_mean", "running_var", "num_batches_tracked", "position_ids", "latent_mean", "latent_std")
"""Last parts of names of stored tensors that are no parameters."""


def facts_of(folder: Path, name: str) -> dict[str, Any]:
    """Describe a model folder in our layout as plain JSON.

    Raises:
        ValueError: a file is missing or damaged.
    """
    index, config = read_json(folder / INDEX), read_json(folder / "unet" / "config.json")
    classes = read_json(folder / "bank" / "bank.json").get("parts", {})
    streams = {group: list(config.get(f"{group}_streams", {})) for group in ("data", "context")}
    scheduler = read_json(folder / "scheduler" / "scheduler_config.json").get("_class_name", "")
    return {
        "model": name,
        "tasks": {task.name: str(task.flow) for task in TASKS.values() if _can(task.flow, streams, classes)},
        "streams": streams,
        "parameters": {
            "diffuser": _by_stream(folder / "unet", streams),
            "codecs and context encoders": {part: sum(_sizes(folder / "bank" / part).values()) for part in classes},
        },
        "classes": dict(classes),
        "scheduler": scheduler_of_class(scheduler) or scheduler,
        "styles": dict(index.get("styles") or {}),
        "defaults": dict(index.get("defaults") or {}),
        "distilled": sorted(path.parent.name for path in folder.glob("distilled/*/form.json")),
        "bytes": bytes_of(folder),
    }


def bytes_of(folder: Path) -> dict[str, int]:
    """The size of each file of a model."""
    return {
        str(file.relative_to(folder)): file.stat().st_size
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not file.name.startswith(".")
    }


def _can(flow: Flow, streams: Mapping[str, Any], parts: Mapping[str, str]) -> bool:
    able = flow.data in streams["data"] and f"codec-{flow.data}" in parts
    return able and all(c in streams["context"] and f"encoder-{c}" in parts for c in flow.contexts)


def _by_stream(folder: Path, streams: Mapping[str, list[str]]) -> dict[str, int]:
    """Parameters by group and stream, as `diffuser.groups.parameter_counts`."""
    counts = Counter({"global": 0} | {f"{group}.{name}": 0 for group, names in streams.items() for name in names})
    for name, size in _sizes(folder).items():
        group, _, rest = name.partition(".")
        counts[f"{group}.{rest.partition('.')[0]}" if group in streams else "global"] += size
    return dict(counts)


def _sizes(folder: Path) -> dict[str, int]:
    """Numbers of the parameters in the files of a network, by name."""
    plain = [file for file in sorted(folder.glob("*.safetensors")) if file.name.count(".") == 1]
    return dict(entry for file in plain or sorted(folder.glob("*.safetensors")) for entry in _entries(file))


def _entries(file: Path) -> Iterator[tuple[str, int]]:
    """Name and size of each parameter in a file."""
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 0 < length <= MOST_HEADER:
            raise ValueError(f"{file} is damaged: its header has {length} bytes")
        header = parse_json(stream.read(length), file)
    for name, entry in header.items():
        shape = entry.get("shape") if isinstance(entry, dict) else None
        if name == "__metadata__" or name.endswith(BUFFERS):
            continue
        if not isinstance(shape, list) or not all(type(side) is int for side in shape):
            raise ValueError(f"{file} is damaged: {shown(name)} has no shape")
        yield name, math.prod(shape)
