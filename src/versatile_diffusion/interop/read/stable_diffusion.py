"""Warm start from Stable Diffusion v1, the initialisation of Versatile Diffusion's training (paper section 4.1)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch
from torch import Tensor, nn

from versatile_diffusion.diffuser.unet import MultiFlowUNet
from versatile_diffusion.interop.names.keymap import to_ours
from versatile_diffusion.interop.official import diffuser_config
from versatile_diffusion.interop.read.found import Found
from versatile_diffusion.interop.read.layouts import recognise

STABLE_DIFFUSION, FRESH = "Stable Diffusion", "fresh"
COPIES = {"context.image": "context.text"}
"""Streams missing in Stable Diffusion, and the stream that initialises them: all contexts have the same shape."""


@dataclass(frozen=True)
class WarmStart:
    """An initialised diffuser.

    Args:
        unet: the diffuser.
        origins: origin of each tensor: `Stable Diffusion`, `copy of context.text` or `fresh`.
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
    """Build a diffuser with the time embedding, image data stream and text context stream of Stable Diffusion v1. The
    image context stream is a copy of the text context stream, the text data stream is fresh.

    Text-to-image then predicts the same as Stable Diffusion from the same context tokens. The tokens differ: Stable
    Diffusion uses CLIP's last hidden states, Versatile Diffusion their projection divided by the pooled token's norm.

    Args:
        path: checkpoint with original names (`.ckpt`, `.safetensors`), or a diffusers folder.
        data, contexts: streams to create.
        config: original configuration, if not that of the published weights.
        seed: seed of fresh weights.

    Raises:
        ValueError: another model, missing or unknown weights, or wrong shapes.
    """
    told = {} if config is None else {"diffuser": config}
    found = path if isinstance(path, Found) else recognise(path, config=told)
    if not found.layout.startswith("stable-diffusion"):
        raise ValueError(f"{found.path} is not Stable Diffusion v1; it is {found}")
    options = diffuser_config(found.configs["diffuser"] | dict(config or {}))
    for group, names in (("data_streams", data), ("context_streams", contexts)):
        if unknown := [name for name in names if name not in options[group]]:
            raise ValueError(f"unknown {group} {', '.join(unknown)}; allowed: {', '.join(options[group])}")
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
    """Return the time embedding and all streams of a diffuser, by prefix of their tensor names."""
    named = {f"{group}.{name}": m for group in ("data", "context") for name, m in getattr(unet, group).items()}
    return {"time_embed": unet.time_embed, **named}


def _copy(stream: str, module: nn.Module, state: Mapping[str, Tensor]) -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"Stable Diffusion's weights do not fit {stream}: {error}") from error
