"""Presets that leave work out of a run and change its result: named, measured (docs/performance.md), off by default."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

WHOLE = (0.0, 1.0)


@dataclass(frozen=True)
class Fast:
    """The work to skip.

    Args:
        interval: the part of the trajectory in which there is guidance, where the user names no other.
        every: the deep stages run in one of this many steps, and their output is reused in between; 1 for all steps.
        level: the stages below which level are the deep ones, see `layers.plan.deep_span`.
        distilled: whether it is a distilled form of the model, under the preset's name; its steps and scale come from
            there.
        help: one line for people.
    """

    interval: tuple[float, float] = WHOLE
    every: int = 1
    level: int = 0
    distilled: bool = False
    help: str = ""


# Records name them, so a preset never changes: another set of values gets another name.
FAST: Mapping[str, Fast] = {
    "off": Fast(help="everything, exactly"),
    "guidance": Fast((0.1, 0.7), help="guidance in the middle of the trajectory alone"),
    "deep": Fast(every=2, help="the deep stages in every second step"),
    "deep3": Fast(every=3, help="the deep stages in every third step"),
    "both": Fast((0.1, 0.7), every=3, help="guidance in the middle alone, and the deep stages in every third step"),
    "most": Fast((0.2, 0.6), every=8, help="guidance from 0.2 to 0.6 alone, and the deep stages in every eighth step"),
    "one-pass": Fast(distilled=True, help="guidance distilled into the model: one pass per step"),
    **{str(steps): Fast(distilled=True, help=f"the model distilled to {steps} steps") for steps in (1, 2, 4, 8)},
}
