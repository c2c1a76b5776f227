"""The plan of the diffuser: kind and width of each layer in running order. It is the same for all modalities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["stem", "residual", "down", "up", "out"]


@dataclass(frozen=True)
class Stage:
    """One data layer with its skips and attention.

    Args:
        kind: kind of data layer.
        wide_in: input channels, including a popped skip.
        wide_out: output channels.
        pops: whether the newest skip is concatenated to its input.
        pushes: whether its output (after attention) is kept as a skip.
        attention: index of the following context block; None if there is none.
    """

    kind: Kind
    wide_in: int
    wide_out: int
    pops: bool = False
    pushes: bool = False
    attention: int | None = None


def deep_span(plan: Sequence[Stage], level: int) -> tuple[int, int]:
    """Where the stages below a level begin and end: from the way down that leaves it to the way up that comes back,
    between which every skip that is pushed is popped again.

    Args:
        plan: stages of a UNet.
        level: 0 for the first (all that is below it), 1 for the second, ...

    Raises:
        ValueError: there is nothing below that level.
    """
    downs, ups = ([k for k, stage in enumerate(plan) if stage.kind == kind] for kind in ("down", "up"))
    if level not in range(len(downs)):
        raise ValueError(f"level is {level}; this plan has stages below levels 0 to {len(downs) - 1}")
    return downs[level], ups[-1 - level] + 1


def unet_plan(
    width: int, multipliers: Sequence[int], depth: int | Sequence[int], attends: Sequence[bool]
) -> tuple[Stage, ...]:
    """Return the stages of a UNet in running order.

    Args:
        width: channels of the first level.
        multipliers: channels of each level, in units of `width`.
        depth: residual blocks per level on the way down (one more on the way up); one number, or one per level.
        attends: whether context blocks follow the residual blocks, per level.
    """
    levels = len(multipliers)
    depths = [depth] * levels if isinstance(depth, int) else list(depth)
    if not levels or len(depths) != levels or len(attends) != levels:
        raise ValueError(
            f"depth, attends and multipliers must have equal lengths of at least one: "
            f"got {len(depths)} depths, {len(attends)} attends and {levels} multipliers"
        )
    stages: list[Stage] = []
    skips: list[int] = []
    blocks = iter(range(2 * sum(depths) + levels + 1))  # upper bound

    def add(kind: Kind, wide: int, *, pops: bool = False, pushes: bool = False, attention: bool = False) -> None:
        wide_in = (stages[-1].wide_out if stages else 0) + (skips.pop() if pops else 0)
        stages.append(Stage(kind, wide_in, wide, pops, pushes, next(blocks) if attention else None))
        if pushes:
            skips.append(wide)

    widths = [width * m for m in multipliers]
    add("stem", width, pushes=True)
    for level, wide in enumerate(widths):
        for _ in range(depths[level]):
            add("residual", wide, pushes=True, attention=attends[level])
        if level < levels - 1:
            add("down", wide, pushes=True)
    add("residual", widths[-1], attention=True)
    add("residual", widths[-1])
    for level, wide in reversed(list(enumerate(widths))):
        for _ in range(depths[level] + 1):
            add("residual", wide, pops=True, attention=attends[level])
        if level > 0:
            add("up", wide)
    add("out", width)
    return tuple(stages)
