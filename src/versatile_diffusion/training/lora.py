"""Low-rank adapters (LoRA) on chosen groups and streams of the diffuser, with peft."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from versatile_diffusion.diffuser.groups import covered, parameter_groups
from versatile_diffusion.diffuser.unet import MultiFlowUNet

ADAPTER_FILE = "pytorch_lora_weights.safetensors"


@dataclass(frozen=True)
class LoraSettings:
    """An adapter.

    Args:
        targets: groups (`"data"`) and streams (`"context.text"`) whose linear maps and convolutions get one.
        rank: of each.
        alpha: scale of what it adds, in units of 1 / rank; the rank if left out.
        name: to tell it from others on the same diffuser.

    Raises:
        ValueError: no targets, or the rank is below 1.
    """

    targets: tuple[str, ...] = ("context",)
    rank: int = 8
    alpha: float | None = None
    name: str = "default"

    def __post_init__(self) -> None:
        if not self.targets or self.rank < 1:
            raise ValueError(f"an adapter needs targets and a rank of 1 or more; got {self.targets} and {self.rank}")


def add_lora(unet: MultiFlowUNet, settings: LoraSettings) -> None:
    """Adds a fresh adapter, which changes no output yet, and leaves it alone to be trained.

    Raises:
        ValueError: a target is unknown, the name is taken, or peft is not installed.
    """
    peft = _peft()
    names = layers_of(unet, settings.targets)
    if settings.name in getattr(unet, "peft_config", {}):
        raise ValueError(f"there is an adapter {settings.name!r} already; give another name")
    alpha = settings.rank if settings.alpha is None else settings.alpha
    config = peft.LoraConfig(r=settings.rank, lora_alpha=alpha, target_modules=names)
    unet.requires_grad_(False)
    unet.add_adapter(config, adapter_name=settings.name)


def layers_of(unet: MultiFlowUNet, targets: tuple[str, ...]) -> list[str]:
    """Names of the linear maps and convolutions in groups and streams.

    Raises:
        ValueError: a target is neither a group nor a stream.
    """
    groups = parameter_groups(unet)
    inside = {name.rpartition(".")[0] for stream in covered(targets, groups) for name, _ in groups[stream]}
    layers = {name.removesuffix(".base_layer"): m for name, m in unet.named_modules() if name in inside}
    return [name for name, layer in layers.items() if isinstance(layer, nn.Linear | nn.Conv2d) and ".lora_" not in name]


def save_lora(unet: MultiFlowUNet, folder: str | Path, name: str = "default") -> Path:
    """Writes an adapter, with its settings, into a folder.

    Raises:
        ValueError: there is no adapter of that name.
    """
    _check(unet, [name])
    unet.save_lora_adapter(folder, adapter_name=name)
    return Path(folder) / ADAPTER_FILE


def load_lora(unet: MultiFlowUNet, folder: str | Path, name: str = "default") -> None:
    """Adds the adapter in a folder, beside those that there are; it acts at once, alone, until `use_loras` says more.

    Raises:
        ValueError: there is none in the folder, the name is taken, or peft is not installed.
    """
    _peft()
    if not (Path(folder) / ADAPTER_FILE).is_file():
        raise ValueError(f"{folder} holds no adapter ({ADAPTER_FILE})")
    unet.load_lora_adapter(str(folder), prefix=None, use_safetensors=True, adapter_name=name)
    use_loras(unet, {name: 1.0})


def use_loras(unet: MultiFlowUNet, weights: Mapping[str, float]) -> None:
    """Lets adapters act together, each with its weight; the others rest.

    Raises:
        ValueError: there is no adapter of a name.
    """
    from diffusers.utils import set_weights_and_activate_adapters

    _check(unet, list(weights))
    set_weights_and_activate_adapters(unet, list(weights), list(weights.values()))


def merge_loras(unet: MultiFlowUNet) -> MultiFlowUNet:
    """Puts the adapters that act into the weights; what is left is a plain diffuser of the same outputs."""
    unet.fuse_lora()
    unet.unload_lora()
    return unet


def _check(unet: MultiFlowUNet, names: list[str]) -> None:
    known = getattr(unet, "peft_config", {})
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"no adapter {', '.join(unknown)}; there are: {', '.join(known) or 'none'}")


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        raise ValueError("adapters need peft; install it with: pip install 'versatile-diffusion[train]'") from error
    return peft
