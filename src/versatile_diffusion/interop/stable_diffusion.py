"""Warm start from Stable Diffusion v1: where a Versatile Diffusion begins before it is trained (paper section 4.1)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from versatile_diffusion.diffuser.unet import MultiFlowUNet
from versatile_diffusion.interop.found import Found
from versatile_diffusion.interop.keymap import to_ours
from versatile_diffusion.interop.layouts import recognise
from versatile_diffusion.interop.official import diffuser_config

STABLE_DIFFUSION, FRESH = "Stable Diffusion", "fresh"
COPIES = {"context.image": "context.text"}
"""Streams that Stable Diffusion has not, and the stream of it that they begin as: all contexts share one form."""


@dataclass(frozen=True)
class WarmStart:
    """A diffuser to train from.

    Args:
        unet: the diffuser.
        origins: for each of its tensors, where it came from: `Stable Diffusion`, `copy of context.text` or `fresh`.
    """

    unet: MultiFlowUNet
    origins: Mapping[str, str]

    def __str__(self) -> str:
        tensors = self.unet.state_dict()
        lines = []
        for stream in streams(self.unet):
            mine = {name: origin for name, origin in self.origins.items() if name.startswith(f"{stream}.")}
            size = sum(tensors[name].numel() for name in mine)
            lines.append(
                f"{stream}: {len(mine)} tensors, {size:,} numbers, {' and '.join(dict.fromkeys(mine.values()))}"
            )
        return "\n".join(lines)


def warm_start(
    path: str | PathLike[str] | Found,
    *,
    data: Collection[str] = ("image", "text"),
    contexts: Collection[str] = ("image", "text"),
    config: Mapping[str, Any] | None = None,
    seed: int = 0,
) -> WarmStart:
    """A diffuser with the time embedding, image data stream and text context stream of Stable Diffusion v1. Its image
    context stream begins as a copy of the text context stream, its text data stream is fresh.

    Text-to-image then predicts what Stable Diffusion does from the same context tokens. Those differ: Stable Diffusion
    reads CLIP's last hidden states, Versatile Diffusion their projection divided by the pooled token's norm.

    Args:
        path: a checkpoint with the original names (`.ckpt`, `.safetensors`), or diffusers' folder.
        data, contexts: the streams to make.
        config: the original's configuration, where it is not that of the published weights.
        seed: of the fresh weights.

    Raises:
        ValueError: it is another model, or a weight is missing, unknown or of another shape.
    """
    told = {} if config is None else {"diffuser": config}
    found = path if isinstance(path, Found) else recognise(path, config=told)
    if not found.layout.startswith("stable-diffusion"):
        raise ValueError(f"{found.path} is not Stable Diffusion v1; it is {found}")
    options = diffuser_config(found.configs["diffuser"] | dict(config or {}))
    for group, names in (("data_streams", data), ("context_streams", contexts)):
        if unknown := [name for name in names if name not in options[group]]:
            raise ValueError(f"unknown {group} {', '.join(unknown)}; allowed are {', '.join(options[group])}")
        options[group] = {name: options[group][name] for name in names}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = MultiFlowUNet(**options)
    given = to_ours(found.tensors["diffuser"])
    origins: dict[str, str] = {}
    for stream, module in streams(unet).items():
        source = COPIES.get(stream, stream)
        state = {n.removeprefix(f"{source}."): t for n, t in given.items() if n.startswith(f"{source}.")}
        origin = FRESH if not state else STABLE_DIFFUSION if source == stream else f"copy of {source}"
        origins |= {f"{stream}.{name}": origin for name in module.state_dict()}
        if state:
            _copy(stream, module, state)
    return WarmStart(unet, origins)


def streams(unet: MultiFlowUNet) -> dict[str, nn.Module]:
    """The time embedding and every stream of a diffuser, by the beginning of its tensors' names."""
    named = {f"{group}.{name}": m for group in ("data", "context") for name, m in getattr(unet, group).items()}
    return {"time_embed": unet.time_embed, **named}


def _copy(stream: str, module: nn.Module, state: Mapping[str, Tensor]) -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"Stable Diffusion's weights do not fit {stream}: {error}") from error
