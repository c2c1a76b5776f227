"""LoRA adapters of the diffuser in use: read, weighted, merged. Training one is `training/diffuser/lora.py`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import nn

from versatile_diffusion.diffuser.unet import MultiFlowUNet
from versatile_diffusion.printable import shown
from versatile_diffusion.reading import reading

ADAPTER_FILE = "pytorch_lora_weights.safetensors"
PREFIX = "unet"
"""Prefix of layer names in files written by pipelines of diffusers."""


def load_lora(unet: MultiFlowUNet, source: str | PathLike[str], name: str = "default", file: str | None = None) -> None:
    """Adds an adapter beside those present; it acts at once, alone, until `use_loras` says more.

    Args:
        unet: the diffuser.
        source: a `.safetensors` file, or the folder that holds one.
        name: of the adapter.
        file: of the folder, where it isn't `pytorch_lora_weights.safetensors`.

    Raises:
        ValueError: there is no such file, it belongs to another model, the name is taken, or peft is not installed.
    """
    require_peft()
    path = _adapter_in(Path(source), file)
    if name in getattr(unet, "peft_config", {}):
        raise ValueError(f"the adapter {shown(name)} already exists; use another name")
    with reading(path, "an adapter"):
        with safe_open(path, framework="pt") as tensors:
            names = list(tensors.keys())
        prefix = PREFIX if any(key.startswith(f"{PREFIX}.") for key in names) else None
        _check_layers(unet, path, names if prefix is None else [key.removeprefix(f"{PREFIX}.") for key in names])
        unet.load_lora_adapter(
            str(path.parent), prefix=prefix, use_safetensors=True, adapter_name=name, weight_name=path.name
        )
    unet.enable_lora()
    use_loras(unet, {name: 1.0})


def _adapter_in(source: Path, file: str | None) -> Path:
    """The file of an adapter."""
    if source.is_file():
        return source
    usual = source / (file or ADAPTER_FILE)
    if usual.is_file():
        return usual
    others = sorted(source.glob("*.safetensors")) if file is None else []
    if len(others) == 1:
        return others[0]
    raise ValueError(f"{source} holds no adapter ({usual.name})")


def _check_layers(unet: MultiFlowUNet, path: Path, names: Iterable[str]) -> None:
    """ValueError if an adapter has a layer that the diffuser has not: diffusers would only log it."""
    known = {layer.removesuffix(".base_layer") for layer, _ in unet.named_modules()}
    layers = {name.partition(".lora_")[0] for name in names}
    if strange := sorted(layers - known):
        raise ValueError(
            f"the adapter {path} belongs to another model: {len(strange)} of its {len(layers)} layers are not in this "
            f"one, such as {shown(strange[0])}"
        )


def save_lora(unet: MultiFlowUNet, folder: str | PathLike[str], name: str = "default") -> Path:
    """Writes an adapter, with its settings, into a folder.

    Raises:
        ValueError: there is no adapter of that name.
    """
    check_adapters(unet, [name])
    with _contiguous(p for own, p in unet.named_parameters() if ".lora_" in own):
        unet.save_lora_adapter(folder, adapter_name=name)
    return Path(folder) / ADAPTER_FILE


@contextmanager
def _contiguous(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Lays tensors out as safetensors files have them (those of convolutions may train in another memory format), and
    puts them back afterwards."""
    before = [(p, p.data) for p in parameters]
    try:
        for p, data in before:
            p.data = data.contiguous()
        yield
    finally:
        for p, data in before:
            p.data = data


def use_loras(unet: MultiFlowUNet, weights: Mapping[str, float]) -> None:
    """Lets adapters act together, each with its weight; the others rest.

    Raises:
        ValueError: there is no adapter of a name.
    """
    from diffusers.utils import set_weights_and_activate_adapters

    check_adapters(unet, weights)
    set_weights_and_activate_adapters(unet, list(weights), list(weights.values()))


def merge_loras(unet: MultiFlowUNet) -> MultiFlowUNet:
    """Puts the adapters that act into the weights; what is left is a plain diffuser of the same outputs."""
    unet.fuse_lora()
    unet.unload_lora()
    return unet


def check_adapters(unet: MultiFlowUNet, names: Iterable[str]) -> None:
    """ValueError unless the diffuser has adapters of these names."""
    known = getattr(unet, "peft_config", {})
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"no adapter {', '.join(unknown)}; there are: {', '.join(known) or 'none'}")


def require_peft() -> Any:
    """The package peft; ValueError if it is not installed."""
    try:
        import peft
    except ImportError as error:
        raise ValueError("adapters need peft; install it with: pip install 'versatile-diffusion[train]'") from error
    return peft


def active_loras(unet: MultiFlowUNet) -> dict[str, float]:
    """The adapters that act, each with its weight."""
    if not getattr(unet, "peft_config", {}):
        return {}
    from peft.tuners.lora import LoraLayer

    weights: dict[str, float] = {}
    for layer in unet.modules():
        if isinstance(layer, LoraLayer) and not layer.disable_adapters:
            for name in layer.active_adapters:
                if name in layer.scaling:
                    weights[name] = round(layer.scaling[name] * layer.r[name] / layer.lora_alpha[name], 6)
    return weights
