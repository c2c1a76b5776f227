"""Initialise a diffuser from an earlier one: the next of the paper's settings (section 4.1), or a deeper one."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from itertools import count
from typing import Any

import torch
from torch import nn

from versatile_diffusion.diffuser.groups import STREAMED
from versatile_diffusion.diffuser.unet import MultiFlowUNet
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.printable import shown

NEW_STREAMS = ("fresh", "copied")


def promote(
    unet: MultiFlowUNet, earlier: MultiFlowUNet, new_contexts: str = "copied", new_data: str = "fresh"
) -> list[str]:
    """Initialise `unet` from `earlier`: the flows that both have produce the same outputs, bit for bit.

    Args:
        unet: of the later stage.
        earlier: of the previous stage, or one warm-started from Stable Diffusion.
        new_contexts: context streams that `earlier` lacks are `copied` from the one that has most layers of the same
            shapes (context streams share their structure: paper section 3.2), all of these layers, or stay `fresh`.
        new_data: the same for data streams.

    Returns:
        The new streams, and how each was initialised.

    Raises:
        ValueError: `earlier` has weights or settings that `unet` lacks; nothing has been changed.
    """
    ways = {"context": new_contexts, "data": new_data}
    for name, way in (("new_contexts", new_contexts), ("new_data", new_data)):
        if way not in NEW_STREAMS:
            raise ValueError(f"{name} is {shown(way)}; allowed: {', '.join(NEW_STREAMS)}")
    _check(unet, earlier)
    unet.load_state_dict(earlier.state_dict(), strict=False)
    told = []
    for group in STREAMED:
        ours, theirs = getattr(unet, group), getattr(earlier, group)
        for name in (name for name in ours if name not in theirs):
            like = {old: _same_layers(ours[name], theirs[old]) for old in theirs} if ways[group] == "copied" else {}
            old = max(like, key=lambda old: len(like[old]), default=None)
            if old is None or not like[old]:
                told.append(f"{group}.{name}: fresh")
                continue
            for place in like[old]:
                ours[name][place].load_state_dict(theirs[old][place].state_dict())
            others = len(ours[name]) - len(like[old])
            told.append(f"{group}.{name}: copy of {group}.{old}" + (f" but for {others} layers" if others else ""))
    return told


@torch.no_grad()
def deepen(earlier: MultiFlowUNet, depth: int | Sequence[int], data: Sequence[str]) -> MultiFlowUNet:
    """A diffuser with more residual blocks per level and the same outputs: the new blocks begin as the identity.

    Args:
        earlier: the diffuser that it begins as.
        depth: residual blocks per level, one number or one per level; at least as many as in `earlier`.
        data: data streams to keep.

    Raises:
        ValueError: a level would have fewer blocks than before.
    """
    config = {name: value for name, value in earlier.config.items() if not name.startswith("_")}
    config |= {"depth": depth, "data_streams": {name: config["data_streams"][name] for name in data}}
    unet = MultiFlowUNet(**config)
    levels = len(config["multipliers"])
    before, after = (_depths(one.config["depth"], levels) for one in (earlier, unet))
    if any(new < old for new, old in zip(after, before, strict=True)):
        raise ValueError(f"depth is {depth}; each level needs at least as many residual blocks as before: {before}")
    unet.time_embed.load_state_dict(earlier.time_embed.state_dict())
    olds = {place: number for number, place in enumerate(_places(before, before))}
    for number, place in enumerate(_places(after, before)):
        old, stage = olds.get(place), unet.plan[number]
        for name in data:
            if old is not None:
                unet.data[name][number].load_state_dict(earlier.data[name][old].state_dict())
            elif stage.pops:  # identity that ignores the skip connection
                weight = unet.data[name][number].skip.weight
                weight.copy_(torch.eye(*weight.shape[:2]).view_as(weight))
                unet.data[name][number].skip.bias.zero_()
        if old is not None and stage.attention is not None:
            for name, stream in unet.context.items():
                stream[stage.attention].load_state_dict(earlier.context[name][earlier.plan[old].attention].state_dict())
    return unet


def with_streams(earlier: MultiFlowUNet, data: Sequence[str], contexts: Sequence[str]) -> MultiFlowUNet:
    """A diffuser with these streams only; the same object if it has no others."""
    if not (set(earlier.data) - set(data) or set(earlier.context) - set(contexts)):
        return earlier
    config = {name: value for name, value in earlier.config.items() if not name.startswith("_")}
    for group, kept in (("data_streams", data), ("context_streams", contexts)):
        config[group] = {name: options for name, options in config[group].items() if name in kept}
    unet = MultiFlowUNet(**config)
    weights = earlier.state_dict()
    unet.load_state_dict({name: weights[name] for name in unet.state_dict()})
    return unet


def _depths(depth: int | Sequence[int], levels: int) -> list[int]:
    return [depth] * levels if isinstance(depth, int) else list(depth)


def _places(depths: Sequence[int], before: Sequence[int]) -> list[tuple[Any, ...]]:
    """Position of each stage in a plan with these depths; equal positions in the plan of depths `before` are the same
    stage. On the way down, new blocks come last in their level; on the way up, after the first one, which takes the
    lower level's output. So each old block keeps its skip connection."""
    levels = list(enumerate(zip(depths, before, strict=True)))
    places: list[tuple[Any, ...]] = [("stem",)]
    for level, (depth, _) in levels:
        places += [(level, "down", number) for number in range(depth)]
        places += [(level, "half")] if level < len(levels) - 1 else []
    places += [("middle", 0), ("middle", 1)]
    for level, (depth, old) in reversed(levels):
        new = count(old + 1)
        places += [(level, "up", 0)]
        places += [(level, "up", next(new)) for _ in range(depth - old)]
        places += [(level, "up", number) for number in range(1, old + 1)]
        places += [(level, "double")] if level else []
    return [*places, ("out",)]


def _check(unet: MultiFlowUNet, earlier: MultiFlowUNet) -> None:
    ours, theirs = unet.state_dict(), earlier.state_dict()
    if unexpected := [name for name in theirs if name not in ours]:
        raise ValueError(
            f"the earlier diffuser has {len(unexpected)} weights that this one lacks, such as {unexpected[0]}"
        )
    if other := [name for name, value in theirs.items() if value.shape != ours[name].shape]:
        shapes = f"{tuple(theirs[other[0]].shape)} there and {tuple(ours[other[0]].shape)} here"
        raise ValueError(f"{len(other)} weights of the earlier diffuser differ in shape, such as {other[0]}: {shapes}")
    mine, its = _options(unet), _options(earlier)
    if different := [
        name for name, value in its.items() if mine[name] != value
    ]:  # such as heads, which do not change shapes
        told = ", ".join(f"{name} {its[name]} there and {mine[name]} here" for name in different)
        raise ValueError(f"the earlier diffuser has other settings: {told}")


def _options(unet: MultiFlowUNet) -> dict[str, Any]:
    """Its configuration as plain JSON, with the options of each stream, including defaults, by name."""
    config = {name: value for name, value in unet.config.items() if not name.startswith("_")}
    for group in STREAMED:
        for name, options in config.pop(f"{group}_streams").items():
            arguments = inspect.signature(getattr(MODALITIES[name], f"{group}_stream")).parameters.values()
            left_out = {a.name: a.default for a in arguments if a.default is not a.empty}
            config[f"{group}.{name}"] = left_out | options
    plain: dict[str, Any] = json.loads(json.dumps(config))
    return plain


def _same_layers(one: Any, other: Any) -> list[int]:
    """Places where two streams have layers with the same shapes."""
    return [place for place, (a, b) in enumerate(zip(one, other, strict=True)) if _shapes(a) == _shapes(b)]


def _shapes(layer: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in layer.state_dict().items()}
