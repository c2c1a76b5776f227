"""The three groups of layers (global, data, context) as parameter groups, one per stream, and how fast each learns."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from torch import nn

from versatile_diffusion.diffuser.unet import MultiFlowUNet

STREAMED = ("data", "context")
GLOBAL = ("time_embed",)
"""Modules that every flow shares."""

MULTIPLY = ("update", "gradient")


def parameter_groups(unet: MultiFlowUNet) -> dict[str, list[tuple[str, nn.Parameter]]]:
    """All parameters with their names, by stream: `"global"`, `"data.image"`, `"context.text"`, ..., each once.

    Raises:
        ValueError: a parameter belongs to no group, or a stream has no parameters.
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
    """How many numbers each group holds."""
    return {group: sum(p.numel() for _, p in members) for group, members in parameter_groups(unet).items()}


def covered(names: Collection[str], streams: Collection[str]) -> list[str]:
    """The streams that groups (`"global"`, `"data"`, `"context"`) and streams (`"data.image"`) name, in their order.

    Args:
        names: what is asked for.
        streams: all that there are.

    Raises:
        ValueError: a name is neither a group nor a stream.
    """
    groups = dict.fromkeys(stream.split(".")[0] for stream in streams)
    if unknown := [name for name in names if name not in streams and name not in groups]:
        raise ValueError(
            f"no group or stream {', '.join(unknown)}; allowed: {', '.join(dict.fromkeys((*groups, *streams)))}"
        )
    return [stream for stream in streams if stream in names or stream.split(".")[0] in names]


@dataclass(frozen=True)
class Multipliers:
    """How fast each group and stream learns beside the others (paper section 3.4).

    Args:
        factors: by group (`"global"`, `"data"`, `"context"`) or stream (`"data.image"`); a stream's factor and its
            group's multiply. Those not named have 1; 0 freezes wholly: no weight decay, no state of an optimizer.
        mode: what is multiplied. `update`: the learning rate, as the released code does. `gradient`: the gradient,
            after clipping, as the paper says; it scales the updates of SGD, and changes next to nothing under Adam,
            AdamW and Muon, whose updates do not depend on the size of the gradient.

    Raises:
        ValueError: a factor is negative, or the mode is unknown.
    """

    factors: Mapping[str, float] = field(default_factory=dict)
    mode: str = "update"

    def __post_init__(self) -> None:
        if self.mode not in MULTIPLY:
            raise ValueError(f"multiply is {self.mode!r}; allowed: {', '.join(MULTIPLY)}")
        if bad := {name: factor for name, factor in self.factors.items() if not 0 <= factor < float("inf")}:
            raise ValueError(f"multipliers are {bad}; they must be numbers of 0 or more")

    def of(self, streams: Collection[str]) -> dict[str, float]:
        """The factor of each stream.

        Raises:
            ValueError: a factor is for a group or stream that there is not.
        """
        covered(self.factors, streams)
        return {
            stream: self.factors.get(stream, 1.0) * (self.factors.get(group, 1.0) if group != stream else 1.0)
            for stream in streams
            for group in (stream.split(".")[0],)
        }

    def freeze(self, unet: MultiFlowUNet) -> None:
        """Takes the streams whose factor is 0 out of the training."""
        groups = parameter_groups(unet)
        for stream, factor in self.of(groups).items():
            if factor == 0:
                for _, parameter in groups[stream]:
                    parameter.requires_grad_(False)
