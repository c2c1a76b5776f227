"""Our modules from the published 2023 layout: a config and a state dict with the original names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from versatile_diffusion.diffuser.unet import MultiFlowUNet
from versatile_diffusion.interop.autokl import build_autokl
from versatile_diffusion.interop.clip import build_clip
from versatile_diffusion.interop.keymap import DIFFUSER, to_ours
from versatile_diffusion.interop.official_optimus import build_optimus

__all__ = ["build_autokl", "build_clip", "build_diffuser", "build_optimus", "diffuser_config"]


def diffuser_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a four-flow `MultiFlowUNet` from the original's configuration."""
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


def build_diffuser(config: Mapping[str, Any], state: Mapping[str, Tensor]) -> MultiFlowUNet:
    """The diffuser with published weights.

    Args:
        config: the original's numbers (`model_channels`, `channel_mult`, ...).
        state: weights with the original names. Checkpoints of fewer flows (basic, dual-context) hold fewer streams;
            the network gets those that are there, and each of them must be whole.

    Raises:
        ValueError: if a weight is missing, unknown or of another shape.
    """
    weights = to_ours({name: tensor for name, tensor in state.items() if name.startswith("diffuser.")}, DIFFUSER)
    present = {tuple(name.split(".")[:2]) for name in weights}
    options = diffuser_config(config)
    for kind in ("data", "context"):
        streams = options[f"{kind}_streams"]
        options[f"{kind}_streams"] = {name: streams[name] for name in streams if (kind, name) in present}
    with torch.device("meta"):
        unet = MultiFlowUNet(**options)
    try:
        unet.load_state_dict(weights, strict=True, assign=True)
    except RuntimeError as error:
        raise ValueError(f"the weights do not fit the configuration: {error}") from error
    return unet.eval()
