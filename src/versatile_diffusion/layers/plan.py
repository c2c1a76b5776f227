"""The plan of the diffuser: which kind of layer runs when, at which width. It is the same for every modality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Kind = Literal["stem", "residual", "down", "up", "out"]


@dataclass(frozen=True)
class Stage:
    """One data layer, and what happens around it.

    Args:
        kind: which data layer it is.
        wide_in: channels that enter it, those of a popped skip included.
        wide_out: channels that leave it.
        pops: the newest skip is joined to its input.
        pushes: its output (after attention) is kept as a skip.
        attention: number of the context block that follows it, None where there is none.
    """

    kind: Kind
    wide_in: int
    wide_out: int
    pops: bool = False
    pushes: bool = False
    attention: int | None = None


def unet_plan(
    width: int, multipliers: Sequence[int], depth: int | Sequence[int], attends: Sequence[bool]
) -> tuple[Stage, ...]:
    """Stages of a UNet in running order.

    Args:
        width: channels of the first level.
        multipliers: channels of each level, in units of `width`.
        depth: residual blocks of a level on the way down (one more on the way up); a number, or one per level.
        attends: for each level, whether context blocks follow its residual blocks.
    """
    levels = len(multipliers)
    depths = [depth] * levels if isinstance(depth, int) else list(depth)
    if not levels or len(depths) != levels or len(attends) != levels:
        raise ValueError(
            f"a plan needs as many depths and attends as multipliers, and at least one: "
            f"got {len(depths)} depths, {len(attends)} attends and {levels} multipliers"
        )
    stages: list[Stage] = []
    skips: list[int] = []
    blocks = iter(range(2 * sum(depths) + levels + 1))  # more than there can be

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
