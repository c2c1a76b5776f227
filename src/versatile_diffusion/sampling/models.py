"""Where models come from: shipped ones by name, folders, the hub; and how diffusers finds our classes in them."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from diffusers.pipelines import pipeline_loading_utils
from huggingface_hub import snapshot_download

from versatile_diffusion.choices import unknown
from versatile_diffusion.shipped import INDEX, shipped_models

READ_AT_ONCE = 1_000_000_000  # bytes
HUB_OPTIONS = (
    "revision",
    "cache_dir",
    "token",
    "local_files_only",
    "force_download",
    "allow_patterns",
    "ignore_patterns",
)


def register_classes() -> None:
    """Makes diffusers write and read our components as `["versatile_diffusion", "MultiFlowUNet"]`.

    Without it a model's files name the module that a class is in (so moving a file would break them), and the hub
    refuses them. The table is not part of diffusers' public interface: a test stands guard.
    """
    methods = ["save_pretrained", "from_pretrained"]
    pipeline_loading_utils.LOADABLE_CLASSES["versatile_diffusion"] = {"ModelMixin": methods, "SchedulerMixin": methods}


def size_of(folder: str) -> int:
    """Bytes of the weights in a model's folder; 0 for a hub id."""
    return sum(file.stat().st_size for file in Path(folder).glob("**/*.safetensors"))


def find_model(name: str | PathLike[str]) -> str:
    """The folder of a shipped model; a folder, a checkpoint or a hub id (`owner/name`) as given.

    Raises:
        ValueError: it is none of these.
    """
    shipped = shipped_models()
    if str(name) in shipped:
        return str(shipped[str(name)])
    if Path(name).exists():
        return str(name)
    if isinstance(name, str) and name.count("/") == 1 and not name.startswith((".", "/", "~")):
        return name
    others = "; else a folder, a checkpoint, or a hub id as owner/name"
    raise ValueError(unknown("model", str(name), sorted(shipped), others))


def fetched(name: str, options: dict[str, Any]) -> str:
    """A path as given; of a hub id the folder of its files, downloaded where they are not here yet.

    Args:
        options: those of the hub (`HUB_OPTIONS`) are taken out of it.
    """
    hub = {option: options.pop(option) for option in HUB_OPTIONS if option in options}
    return name if Path(name).exists() else snapshot_download(name, **hub)


def is_ours(path: str | PathLike[str]) -> bool:
    """Whether a path is a folder in our layout."""
    return Path(path, INDEX).is_file() and Path(path, "bank").is_dir()
