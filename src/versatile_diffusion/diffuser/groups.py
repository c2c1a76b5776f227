"""The three groups of layers (global, data, context) as parameter groups, one per stream."""

from __future__ import annotations

from torch import nn

from versatile_diffusion.diffuser.unet import MultiFlowUNet

STREAMED = ("data", "context")


def parameter_groups(unet: MultiFlowUNet) -> dict[str, list[tuple[str, nn.Parameter]]]:
    """All parameters with their names, by group: `"global"`, `"data.image"`, `"context.text"`, ..., each once."""
    groups: dict[str, list[tuple[str, nn.Parameter]]] = {}
    for name, parameter in unet.named_parameters():
        group, stream, *_ = name.split(".")
        groups.setdefault(f"{group}.{stream}" if group in STREAMED else "global", []).append((name, parameter))
    return groups


def parameter_counts(unet: MultiFlowUNet) -> dict[str, int]:
    """How many numbers each group holds."""
    return {group: sum(p.numel() for _, p in members) for group, members in parameter_groups(unet).items()}
