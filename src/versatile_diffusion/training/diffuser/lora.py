"""LoRA adapters on selected groups and streams of the diffuser, with peft."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from versatile_diffusion.diffuser.adapters import ADAPTER_FILE as ADAPTER_FILE
from versatile_diffusion.diffuser.adapters import load_lora as load_lora
from versatile_diffusion.diffuser.adapters import merge_loras as merge_loras
from versatile_diffusion.diffuser.adapters import require_peft
from versatile_diffusion.diffuser.adapters import save_lora as save_lora
from versatile_diffusion.diffuser.adapters import use_loras as use_loras
from versatile_diffusion.diffuser.groups import parameter_groups, streams_in
from versatile_diffusion.diffuser.unet import MultiFlowUNet
from versatile_diffusion.printable import shown


@dataclass(frozen=True)
class LoraSettings:
    """Settings of an adapter.

    Args:
        targets: groups (`"data"`) and streams (`"context.text"`) whose linear and convolution layers get an adapter.
        rank: of the update matrices.
        alpha: scale of the update, which is multiplied by alpha / rank; default: the rank.
        name: of the adapter.

    Raises:
        ValueError: no targets, or a rank below 1.
    """

    targets: tuple[str, ...] = ("context",)
    rank: int = 8
    alpha: float | None = None
    name: str = "default"

    def __post_init__(self) -> None:
        if not self.targets or self.rank < 1:
            raise ValueError(f"an adapter needs targets and a rank of 1 or more; got {self.targets} and {self.rank}")


def add_lora(unet: MultiFlowUNet, settings: LoraSettings) -> None:
    """Add a new adapter, which does not change outputs yet, and freeze all other weights.

    Raises:
        ValueError: an unknown target, an existing name, or peft is not installed.
    """
    peft = require_peft()
    names = layers_of(unet, settings.targets)
    if settings.name in getattr(unet, "peft_config", {}):
        raise ValueError(f"the adapter {shown(settings.name)} already exists; use another name")
    alpha = settings.rank if settings.alpha is None else settings.alpha
    config = peft.LoraConfig(r=settings.rank, lora_alpha=alpha, target_modules=names)
    unet.requires_grad_(False)
    unet.add_adapter(config, adapter_name=settings.name)


def layers_of(unet: MultiFlowUNet, targets: tuple[str, ...]) -> list[str]:
    """Names of the linear and convolution layers in groups and streams.

    Raises:
        ValueError: a target is neither a group nor a stream.
    """
    groups = parameter_groups(unet)
    inside = {name.rpartition(".")[0] for stream in streams_in(targets, groups) for name, _ in groups[stream]}
    layers = {name.removesuffix(".base_layer"): m for name, m in unet.named_modules() if name in inside}
    return [name for name, layer in layers.items() if isinstance(layer, nn.Linear | nn.Conv2d) and ".lora_" not in name]
