"""The three groups of layers (global, data, context) as parameter groups per stream, with learning rate multipliers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from torch import nn

from versatile_diffusion.diffuser.unet import MultiFlowUNet
from versatile_diffusion.printable import shown

STREAMED = ("data", "context")
GLOBAL = ("time_embed",)
"""Modules shared by all flows."""

MULTIPLY = ("update", "gradient")


def parameter_groups(unet: MultiFlowUNet) -> dict[str, list[tuple[str, nn.Parameter]]]:
    """Return all named parameters by stream: `"global"`, `"data.image"`, `"context.text"`, ..., each once.

    Raises:
        ValueError: a parameter without a group, or a stream without parameters.
    """
    streams = [f"{group}.{name}" for group in STREAMED for name in getattr(unet, group)]
    groups: dict[str, list[tuple[str, nn.Parameter]]] = {stream: [] for stream in ("global", *streams)}
    for name, parameter in unet.named_parameters():
        top, inner, *_ = name.split(".")
        stream = "global" if top in GLOBAL else f"{top}.{inner}"
        if stream not in groups:
            raise ValueError(f"parameter {name} belongs to no group; they are {', '.join(groups)}")
        groups[stream].append((name, parameter))
    if empty := [stream for stream, members in groups.items() if not members]:
        raise ValueError(f"{', '.join(empty)} has no parameters; every group and stream needs some")
    return groups


def parameter_counts(unet: MultiFlowUNet) -> dict[str, int]:
    """Return the number of parameters per stream."""
    return {group: sum(p.numel() for _, p in members) for group, members in parameter_groups(unet).items()}


def streams_in(names: Collection[str], streams: Collection[str]) -> list[str]:
    """Return the streams selected by groups (`"global"`, `"data"`, `"context"`) and streams (`"data.image"`), in order.

    Args:
        names: selected groups and streams.
        streams: all streams.

    Raises:
        ValueError: an unknown name.
    """
    groups = dict.fromkeys(stream.split(".")[0] for stream in streams)
    if unknown := [name for name in names if name not in streams and name not in groups]:
        raise ValueError(
            f"no group or stream {', '.join(unknown)}; allowed: {', '.join(dict.fromkeys((*groups, *streams)))}"
        )
    return [stream for stream in streams if stream in names or stream.split(".")[0] in names]


@dataclass(frozen=True)
class Multipliers:
    """Learning rate multipliers of groups and streams (paper section 3.4).

    Args:
        factors: by group (`"global"`, `"data"`, `"context"`) or stream (`"data.image"`); factors of stream and group
            multiply. The default is 1; 0 freezes completely: no weight decay, no optimizer state.
        mode: what is multiplied. `update`: the learning rate, as in the released code. `gradient`: the clipped
            gradient, as in the paper; it scales SGD's updates, but has almost no effect with Adam, AdamW and Muon,
            whose updates are invariant to the gradient's scale.

    Raises:
        ValueError: a negative factor, or an unknown mode.
    """

    factors: Mapping[str, float] = field(default_factory=dict)
    mode: str = "update"

    def __post_init__(self) -> None:
        if self.mode not in MULTIPLY:
            raise ValueError(f"multiply is {shown(self.mode)}; allowed: {', '.join(MULTIPLY)}")
        if bad := {name: factor for name, factor in self.factors.items() if not 0 <= factor < float("inf")}:
            raise ValueError(f"multipliers are {shown(bad)}; they must be 0 or more")

    def of(self, streams: Collection[str]) -> dict[str, float]:
        """Return the factor of each stream.

        Raises:
            ValueError: a factor for an unknown group or stream.
        """
        streams_in(self.factors, streams)
        return {
            stream: self.factors.get(stream, 1.0) * (self.factors.get(group, 1.0) if group != stream else 1.0)
            for stream in streams
            for group in (stream.split(".")[0],)
        }

    def freeze(self, unet: MultiFlowUNet) -> None:
        """Disable gradients of streams with factor 0."""
        groups = parameter_groups(unet)
        for stream, factor in self.of(groups).items():
            if factor == 0:
                for _, parameter in groups[stream]:
                    parameter.requires_grad_(False)
