"""LoRA adapters of a folder, which act on a model together, each with its weight."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from versatile_diffusion import VersatileDiffusionPipeline

SUFFIX = ".safetensors"


def adapters_in(folder: Path | None) -> dict[str, Path]:
    """Return the adapters in a folder: files, and folders that hold one, by name.

    Raises:
        ValueError: there is no such folder.
    """
    if folder is None:
        return {}
    if not folder.is_dir():
        raise ValueError(f"--loras is {folder}, which is not a folder")
    files = sorted(file for pattern in (f"*{SUFFIX}", f"*/*{SUFFIX}") for file in folder.glob(pattern))
    return {file.relative_to(folder).with_suffix("").as_posix(): file for file in files}


def apply(pipe: VersatileDiffusionPipeline, chosen: Mapping[str, float], files: Mapping[str, Path]) -> None:
    """Let these adapters act with their weights, and no others; those that are new are loaded.

    Raises:
        ValueError: an adapter that is not among the files, or of another model.
    """
    if strange := chosen.keys() - files.keys():
        raise ValueError(f"{min(strange)} is not in the folder of adapters")
    loaded = pipe.get_list_adapters().get("unet", [])
    names = {name: re.sub(r"\W", "_", name) for name in chosen}
    for name, inner in names.items():
        if inner not in loaded:
            pipe.load_lora_weights(files[name], inner)
    if chosen:
        pipe.set_adapters([names[name] for name in chosen], list(chosen.values()))
    elif loaded:
        pipe.unload_lora_weights()
