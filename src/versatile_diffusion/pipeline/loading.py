"""Options of `from_pretrained` as scripts for diffusers write them."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import SchedulerMixin

from versatile_diffusion.choices import unknown
from versatile_diffusion.diffuser.unet import MultiFlowUNet
from versatile_diffusion.modalities.bank import ModalityBank
from versatile_diffusion.pipeline.models import HubOptions
from versatile_diffusion.printable import shown
from versatile_diffusion.reading import has_variant

ABSENT = ("safety_checker", "feature_extractor", "image_encoder")
"""Components of other pipelines that scripts switch off by None."""
STEM = "diffusion_pytorch_model"
WHOLE_MAPS = ("balanced", "auto")
"""Device maps that mean the accelerator, where there is one."""


class OfficialOptions(HubOptions, total=False):
    """What `from_official` takes besides its own arguments; see `load_official`."""

    torch_dtype: torch.dtype | str | None
    tasks: Collection[str] | None
    parts: Collection[str] | None
    config: Mapping[str, Mapping[str, Any]] | None
    layout: str | None


class LoadOptions(OfficialOptions, total=False):
    """What `from_pretrained` takes besides its own arguments."""

    variant: str | None
    device_map: str | Mapping[str, Any] | torch.device | None
    use_safetensors: bool | None
    low_cpu_mem_usage: bool
    quantization_config: Any
    safety_checker: None
    requires_safety_checker: bool
    feature_extractor: None
    image_encoder: None
    unet: MultiFlowUNet
    bank: ModalityBank
    scheduler: SchedulerMixin


OFFICIAL = ("tasks", "parts", "config", "layout")
NAMES = tuple(name for kind in (LoadOptions, OfficialOptions, HubOptions) for name in kind.__annotations__)


def checked_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that have a meaning here.

    Raises:
        ValueError: one is unknown, asks for pickled weights, or gives a component that this pipeline has not.
    """
    if strange := [name for name in options if name not in NAMES]:
        raise ValueError(unknown("option of from_pretrained", strange[0], NAMES))
    for name in ABSENT:
        if options.get(name) is not None:
            raise ValueError(f"{name} is given, and Versatile Diffusion has none; omit it")
    if options.get("use_safetensors") is False:
        raise ValueError("use_safetensors is False; model folders hold safetensors alone. Omit it")
    left_out = (*ABSENT, "requires_safety_checker", "use_safetensors")
    return {name: value for name, value in options.items() if name not in left_out}


def found_variant(folder: str, variant: Any) -> str | None:
    """The variant of the weights to read in a folder of ours; None for the plain ones, with a warning where there is no
    such variant.

    Raises:
        ValueError: it is no name.
    """
    if variant is None:
        return None
    if not isinstance(variant, str) or not re.fullmatch(r"\w+", variant):
        raise ValueError(f"variant is {shown(variant)}; it must be a name such as 'fp16'")
    if has_variant(Path(folder, "unet"), variant):
        return variant
    warnings.warn(
        f"{folder} has no weights of variant {shown(variant)}; its other weights are loaded (torch_dtype= sets the "
        "dtype in memory)",
        stacklevel=4,
    )
    return None


def weights_file(folder: str | Path, variant: str | None) -> Path:
    """The weights of a network in a folder: those of a variant if it has them, else the plain ones; the folder itself
    where they have another name."""
    place = Path(folder)
    names = [f"{STEM}.safetensors.index.json", f"{STEM}.safetensors"]
    if variant is not None:
        names = [f"{STEM}.safetensors.index.{variant}.json", f"{STEM}.{variant}.safetensors", *names]
    return next((place / name for name in names if (place / name).is_file()), place)


def mapped_device(device_map: Any) -> torch.device | None:
    """The device that a device map asks for; None for none. The diffuser and its parts stay together on one.

    Raises:
        ValueError: it is no device, names several, or one that is not here.
    """
    if device_map is None:
        return None
    places = set(device_map.values()) if isinstance(device_map, Mapping) else {device_map}
    if len(places) != 1:
        raise ValueError(f"device_map is {shown(device_map)}; a model stays on one device, such as 'cuda'")
    (place,) = places
    if place in WHOLE_MAPS:
        here = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return torch.device("cpu") if here is None else here
    try:
        device = torch.device(place)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(f"device_map is {shown(device_map)}: {str(error).splitlines()[0]}") from error
    return device
