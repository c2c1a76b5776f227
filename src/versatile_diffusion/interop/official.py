"""Building of our modules from the published 2023 layout: a config and a state dict with original names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from versatile_diffusion.diffuser.unet import MultiFlowUNet
from versatile_diffusion.interop.names.autokl import build_autokl
from versatile_diffusion.interop.names.keymap import DIFFUSER, to_ours
from versatile_diffusion.interop.read.clip import build_clip
from versatile_diffusion.interop.read.found import streams_of
from versatile_diffusion.interop.read.official_optimus import build_optimus
from versatile_diffusion.interop.read.weights import assign
from versatile_diffusion.layers.plan import Stage, unet_plan

__all__ = ["build_autokl", "build_clip", "build_diffuser", "build_optimus", "diffuser_config"]

FULL_SIZE: dict[str, Any] = {
    "image_channels": 4,
    "text_channels": 768,
    "context_dim": 768,
    "model_channels": 320,
    "channel_mult": [1, 2, 4, 4],
    "num_res_blocks": [2, 2, 2, 2],
    "with_attn": [True, True, True, False],
    "second_dim": [4, 4, 4, 4],
    "num_heads": 8,
}
"""Original configuration of the published diffuser."""


def diffuser_plan(config: Mapping[str, Any]) -> tuple[Stage, ...]:
    """Return the plan of a diffuser with the original configuration."""
    return unet_plan(config["model_channels"], config["channel_mult"], config["num_res_blocks"], config["with_attn"])


def diffuser_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the original configuration to arguments of a four-flow `MultiFlowUNet`."""
    positions = set(config["second_dim"])
    if len(positions) > 1:
        raise ValueError(
            f"text latents must have the same number of positions at each level, got {config['second_dim']}"
        )
    return {
        "data_streams": {
            "image": {"channels": config["image_channels"]},
            "text": {"width": config["text_channels"], "positions": positions.pop()},
        },
        "context_streams": {"image": {"width": config["context_dim"]}, "text": {"width": config["context_dim"]}},
        "width": config["model_channels"],
        "multipliers": list(config["channel_mult"]),
        "depth": list(config["num_res_blocks"]),
        "attends": list(config["with_attn"]),
        "heads": config["num_heads"],
    }


def empty_diffuser(config: Mapping[str, Any], names: Iterable[str]) -> MultiFlowUNet:
    """Build the diffuser on the meta device, with the streams present in these 2023 names."""
    present = streams_of(names)
    options = diffuser_config(config)
    for kind in ("data", "context"):
        streams = options[f"{kind}_streams"]
        options[f"{kind}_streams"] = {name: streams[name] for name in streams if f"{kind}.{name}" in present}
    with torch.device("meta"):
        return MultiFlowUNet(**options).eval()


def published_config(unet: MultiFlowUNet) -> dict[str, Any]:
    """Convert a diffuser to the original configuration; inverse of `diffuser_config`. Missing streams get the published
    sizes."""
    config = unet.config
    levels = len(config.multipliers)
    data, contexts = config.data_streams, config.context_streams
    text = data.get("text", {})
    return {
        "image_channels": data.get("image", {}).get("channels", FULL_SIZE["image_channels"]),
        "text_channels": text.get("width", FULL_SIZE["text_channels"]),
        "context_dim": next(iter(contexts.values()))["width"],
        "model_channels": config.width,
        "channel_mult": list(config.multipliers),
        "num_res_blocks": [config.depth] * levels if isinstance(config.depth, int) else list(config.depth),
        "with_attn": list(config.attends),
        "second_dim": [text.get("positions", 4)] * levels,
        "num_heads": config.heads,
    }


def build_diffuser(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> MultiFlowUNet:
    """Build the diffuser with published weights.

    Args:
        config: original configuration (`model_channels`, `channel_mult`, ...).
        state: weights with original names. Checkpoints with fewer flows (basic, dual-context) give a network with fewer
            streams, each of which must be complete.

    Raises:
        ValueError: missing or unknown weights, or wrong shapes.
    """
    named = {name: tensor for name, tensor in state.items() if name.startswith("diffuser.")}
    unet = empty_diffuser(config, named)
    assign(unet, to_ours(named, DIFFUSER))
    return unet
