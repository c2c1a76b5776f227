"""From one of the paper's settings to the next: a later diffuser that begins as the earlier one (section 4.1)."""

from __future__ import annotations

import inspect
import json
from typing import Any

import torch
from torch import nn

from versatile_diffusion.diffuser.groups import STREAMED
from versatile_diffusion.diffuser.unet import MultiFlowUNet
from versatile_diffusion.modalities import MODALITIES

NEW_CONTEXTS = ("fresh", "copied")


def promote(unet: MultiFlowUNet, earlier: MultiFlowUNet, new_contexts: str = "copied") -> list[str]:
    """Makes `unet` begin as `earlier`: the flows that both have give the same outputs, bit for bit.

    Args:
        unet: of the later stage.
        earlier: of the stage before; or of none, such as one warm-started from Stable Diffusion.
        new_contexts: context streams that `earlier` lacks begin as `copied` from one that it has, where all shapes
            agree (contexts share their form: paper section 3.2), or stay `fresh`. New data streams stay fresh.

    Returns:
        The new streams, and what each began as.

    Raises:
        ValueError: the earlier one has weights or settings that this one has not; nothing has been changed then.
    """
    if new_contexts not in NEW_CONTEXTS:
        raise ValueError(f"new_contexts is {new_contexts!r}; allowed: {', '.join(NEW_CONTEXTS)}")
    _check(unet, earlier)
    unet.load_state_dict(earlier.state_dict(), strict=False)
    told = [f"data.{name}: fresh" for name in unet.data if name not in earlier.data]
    for name in (name for name in unet.context if name not in earlier.context):
        like = [old for old in earlier.context if _shapes(earlier.context[old]) == _shapes(unet.context[name])]
        if new_contexts == "copied" and like:
            unet.context[name].load_state_dict(earlier.context[like[0]].state_dict())
            told.append(f"context.{name}: copy of context.{like[0]}")
        else:
            told.append(f"context.{name}: fresh")
    return told


def _check(unet: MultiFlowUNet, earlier: MultiFlowUNet) -> None:
    ours, theirs = unet.state_dict(), earlier.state_dict()
    if unexpected := [name for name in theirs if name not in ours]:
        raise ValueError(
            f"the earlier stage has {len(unexpected)} weights that this one lacks, such as {unexpected[0]}"
        )
    if other := [name for name, value in theirs.items() if value.shape != ours[name].shape]:
        shapes = f"{tuple(theirs[other[0]].shape)} there and {tuple(ours[other[0]].shape)} here"
        raise ValueError(f"{len(other)} weights of the earlier stage have other shapes, such as {other[0]}: {shapes}")
    mine, its = _options(unet), _options(earlier)
    if different := [name for name, value in its.items() if mine[name] != value]:  # such as heads, which no shape shows
        told = ", ".join(f"{name} {its[name]} there and {mine[name]} here" for name in different)
        raise ValueError(f"the earlier stage was built otherwise: {told}")


def _options(unet: MultiFlowUNet) -> dict[str, Any]:
    """How it was built, each stream's options (with those left out) by its name, as plain JSON."""
    config = {name: value for name, value in unet.config.items() if not name.startswith("_")}
    for group in STREAMED:
        for name, options in config.pop(f"{group}_streams").items():
            arguments = inspect.signature(getattr(MODALITIES[name], f"{group}_stream")).parameters.values()
            left_out = {a.name: a.default for a in arguments if a.default is not a.empty}
            config[f"{group}.{name}"] = left_out | options
    return json.loads(json.dumps(config))


def _shapes(stream: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in stream.state_dict().items()}
