"""Model lookup: shipped models, folders and the hub; and registration of our classes with diffusers."""

from __future__ import annotations

import math
import os
import re
import shlex
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any, TypedDict

import torch
from diffusers.pipelines import pipeline_loading_utils
from huggingface_hub import snapshot_download

from versatile_diffusion.pipeline.precision import AUTO, Precision, dtype_of, suitable_dtype
from versatile_diffusion.printable import shown
from versatile_diffusion.reading import read_json
from versatile_diffusion.shipped import HUB_ID, INDEX, shipped_models
from versatile_diffusion.shipped import find_model as find_model
from versatile_diffusion.shipped import is_ours as is_ours

CLASS_NAME = "MultiFlowPipeline"
"""In the index of a model that we write. Until version 0.2 it was VersatileDiffusionPipeline, which diffusers has, too,
and means something else by."""
READ_AT_ONCE = 1_000_000_000  # bytes
LIBRARIES = ("versatile_diffusion", "diffusers")
"""Libraries whose classes a model index may name."""
NETWORK_PATH = re.compile(r"[/\\]{2}|\w{2,}:")
"""Start of network paths and URLs; checking their existence would contact another machine."""


class HubOptions(TypedDict, total=False):
    """Options of a hub id; see `huggingface_hub.snapshot_download`."""

    revision: str | None
    cache_dir: str | PathLike[str] | None
    token: str | bool | None
    local_files_only: bool
    force_download: bool
    allow_patterns: list[str] | str | None
    ignore_patterns: list[str] | str | None


HUB_OPTIONS = tuple(HubOptions.__annotations__)


def register_classes() -> None:
    """Make diffusers store our components as `["versatile_diffusion", "MultiFlowUNet"]`.

    Otherwise a model's index names the module of a class (so moving it would break saved models), and the hub refuses
    them. The table is not public in diffusers; a test covers it.
    """
    methods = ["save_pretrained", "from_pretrained"]
    pipeline_loading_utils.LOADABLE_CLASSES["versatile_diffusion"] = {"ModelMixin": methods, "SchedulerMixin": methods}


def size_of(folder: str | PathLike[str]) -> int:
    """Return the size of the weights in a model folder in bytes; 0 for a hub id."""
    return sum(file.stat().st_size for file in Path(folder).glob("**/*.safetensors"))


def precision_of(dtype: Any, folder: str | PathLike[str], device: str | torch.device | None) -> Precision:
    """What the model in a folder is to compute in; see `Precision.of`. Published weights are taken to be large."""
    size = size_of(Path(folder, "unet")) if is_ours(folder) else math.inf
    return Precision.of(dtype, lambda: suitable_dtype(device or "cpu", size))


def check_index(folder: str | PathLike[str]) -> None:
    """Refuse a model index that is damaged or names classes of other libraries, which would be imported.

    Raises:
        ValueError: with the reason.
    """
    file = Path(folder, INDEX)
    index = read_json(file)
    for part in ("unet", "bank", "scheduler"):
        named = index.get(part)
        plain = isinstance(named, list) and len(named) == 2 and all(isinstance(name, str) for name in named)
        if named is None or not plain or named[0].split(".")[0] not in LIBRARIES:
            raise ValueError(f"{file} sets {part} to {shown(named)}; it must be a class of {' or '.join(LIBRARIES)}")
    for name, kind in (("styles", str), ("defaults", dict)):
        table = index.get(name) or {}
        if not isinstance(table, dict) or not all(isinstance(value, kind) for value in table.values()):
            raise ValueError(f"{file}: {name} must have a {kind.__name__} by each name")


def dtype_of_record(record: Mapping[str, Any]) -> Any:
    """What the model that a saved file was made by computed in; float32 where it does not say, as earlier versions
    always did."""
    maker = record.get("model")
    if not isinstance(maker, Mapping) and isinstance(cells := record.get("cells"), list) and cells:
        settings = cells[0].get("settings") if isinstance(cells[0], Mapping) else None
        maker = settings.get("model") if isinstance(settings, Mapping) else None
    return maker.get("dtype", "float32") if isinstance(maker, Mapping) else "float32"


def model_of_record(record: Mapping[str, Any]) -> str:
    """Return the model that generated a saved file, if it may be loaded without asking: installed, or a folder or
    checkpoint on this machine. Nothing is downloaded, and no other machine is contacted.

    Raises:
        ValueError: the file names another model, or none.
    """
    maker = record.get("model")
    name = record.get("from_pretrained") or (maker.get("name") if isinstance(maker, Mapping) else None)
    if not isinstance(name, str) or not name:
        raise ValueError("it does not name its model; specify one with --model")
    if is_here(name):
        return name
    raise ValueError(
        f"it was generated by the model {shown(name)}, which is neither installed nor a local folder; to download it, "
        f"name it explicitly: --model {shlex.quote(name)}"
    )


def is_here(name: str) -> bool:
    """Return whether a model is installed, or a folder or file on this machine; contacts no other machine."""
    return name in shipped_models() or (not NETWORK_PATH.match(name) and "\0" not in name and os.path.exists(name))


def fetch_model(name: str, options: Any) -> str:
    """Return a path as given; for a hub id, its folder, downloaded if not cached.

    Args:
        options: options of the hub (`HUB_OPTIONS`) are removed from it.
    """
    hub = {option: options.pop(option) for option in HUB_OPTIONS if option in options}
    if Path(name).exists():
        return name
    repository, _, revision = name.partition("@")
    if revision and hub.setdefault("revision", revision) != revision:
        raise ValueError(f"{name} and revision={shown(hub['revision'])} specify two revisions; give one")
    folder: str = snapshot_download(repository, **hub)  # nosec B615 # hub has the revision
    return folder


def pin_revision(name: str, revision: str) -> str:
    """Add a revision to a hub id; ValueError if the name is no plain hub id."""
    if name in shipped_models() or os.path.exists(name) or not HUB_ID.fullmatch(whole := f"{name}@{revision}"):
        raise ValueError(f"--revision {revision} applies to hub ids (owner/name) only; the model is {shown(name)}")
    return whole


def loading_dtype(dtype: Any, options: Any) -> Any:
    """Return the dtype to load a model in, as `Precision.of` takes it.

    Args:
        dtype: dtype, or its name, e.g. `"float16"`.
        options: the alias `torch_dtype` is removed from it.

    Raises:
        ValueError: an unknown dtype, or two different ones.
    """
    given = [dtype, options.pop("torch_dtype", None)]
    found = [one if one == AUTO or isinstance(one, Mapping) else dtype_of(one) for one in given if one is not None]
    chosen = found[-1] if found else torch.float32
    if len(found) > 1 and found[0] not in (torch.float32, chosen):
        raise ValueError(f"dtype is {found[0]} and torch_dtype {chosen}; they are aliases; give one of them")
    return chosen
