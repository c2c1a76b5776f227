"""A generation request, checked before any expensive work, and its record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from versatile_diffusion.choices import chosen
from versatile_diffusion.controls import DECODING, RAW, REQUEST, SIZE, Controls
from versatile_diffusion.flow import Condition, Flow
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.modalities.text import check_text
from versatile_diffusion.numeric import is_number, number, plain, sequence, settle, switch
from versatile_diffusion.printable import shown
from versatile_diffusion.sampling.fast import FAST
from versatile_diffusion.sampling.rules import MIXINGS
from versatile_diffusion.sampling.schedulers import SCHEDULERS
from versatile_diffusion.sampling.seeds import BITS
from versatile_diffusion.tasks import NULLS, Task, task_of

NAMES: dict[str, Mapping[str, Any]] = {"mixing": MIXINGS, "scheduler": SCHEDULERS, "fast": FAST}
LAYER_BITS = (32, BITS)


@dataclass(frozen=True)
class Request(Controls):
    """What to generate, from what, and how. All options are in `controls.Controls`.

    Args:
        data: modality to generate.
        conditions: the conditions. Values may be lists with one entry per prompt; single values apply to every prompt.

    Raises:
        ValueError: an invalid value; the message says what is allowed.
    """

    data: str
    conditions: tuple[Condition, ...]

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) is None and field.default is not None:
                raise ValueError(f"{field.name} is None; omit it for its default")
        if not isinstance(self.data, str):
            raise ValueError(f"data is {shown(self.data)}; it must be the name of a modality")
        if not self.conditions:
            raise ValueError("conditions is empty; give at least one condition")
        if sum(condition.weight for condition in self.conditions) == 0:
            raise ValueError("all conditions have weight 0; at least one must be above 0")
        for name, control in REQUEST.items():
            if control.is_number and (given := getattr(self, name)) is not None:
                settle(self, **{name: number(name, given, control.least, control.most, whole=control.whole)})
        settle(self, rank=switch("rank", self.rank), guidance_interval=_checked_interval(self.guidance_interval))
        for name, table in NAMES.items():
            if getattr(self, name) is not None:
                chosen(name, getattr(self, name), table)
        if self.start is None and self.repaint is not None:
            raise ValueError("repaint needs start, the image to regenerate in part")
        if (self.start is None) != (self.fidelity == 0) and self.repaint is None:
            raise ValueError("start needs fidelity above 0 (how much of it to keep), and fidelity needs start")
        if not (is_number(self.layer_bits) and self.layer_bits in LAYER_BITS):
            raise ValueError(f"layer_bits is {shown(self.layer_bits)}; allowed: {', '.join(map(str, LAYER_BITS))}")
        _check_negative(self.negative_prompt)
        _check_null(self.null)
        if FAST[self.fast].every > 1 and self.mixing == "layer":
            raise ValueError(
                f"fast {shown(self.fast)} keeps the output of stages from step to step, and mixing 'layer' draws anew "
                f"the conditions; use mixing 'attention'"
            )
        if self.layer_plan is not None and self.mixing != "layer":
            raise ValueError(f"layer_plan needs mixing 'layer', not {shown(self.mixing)}")
        if self.layer_plan is not None:
            settle(self, layer_plan=_plain_plan(self.layer_plan))
        if not MIXINGS[self.mixing].regions and any(condition.region is not None for condition in self.conditions):
            able = [name for name, mixing in MIXINGS.items() if mixing.regions]
            raise ValueError(f"a region needs mixing {' or '.join(able)}, not {shown(self.mixing)}")

    @property
    def flow(self) -> Flow:
        return Flow(self.data, tuple(dict.fromkeys(condition.modality for condition in self.conditions)))

    @property
    def task(self) -> Task | None:
        return task_of(self.flow)

    @property
    def copies(self) -> int:
        """Number of outputs per prompt; those of one prompt are adjacent."""
        return self.num_outputs * self.candidates

    @property
    def size(self) -> dict[str, int]:
        """Size arguments for the codec."""
        return {name: getattr(self, name) for name in SIZE if getattr(self, name) is not None}

    @property
    def decoding(self) -> dict[str, float]:
        """Decoding arguments for the codec."""
        return {name: getattr(self, name) for name in DECODING if getattr(self, name) is not None}

    def record(self) -> dict[str, Any]:
        """Plain JSON of all fields except those that may hold images or arrays."""
        plain = {"data": self.data} | {name: getattr(self, name) for name in REQUEST if name not in RAW}
        plain["guidance_interval"] = list(self.guidance_interval)
        plain["null"] = dict(self.null) if isinstance(self.null, Mapping) else self.null
        if self.layer_plan is not None:
            plain["layer_plan"] = [list(choices) for choices in self.layer_plan]
        task = self.task
        return {"task": task.name if task else str(self.flow), **plain}


def _check_negative(negative: Any) -> None:
    texts = negative if isinstance(negative, list | tuple) else () if negative is None else (negative,)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"negative_prompt is {shown(negative)}; it must be a string, or one per prompt")
    for text in texts:
        check_text(text)


def _checked_interval(interval: Any) -> tuple[float, float]:
    ends = [plain(end) for end in sequence(interval) or []]
    if not all(map(is_number, ends)) or len(ends) != 2 or not 0 <= ends[0] <= ends[1] <= 1:
        raise ValueError(
            f"guidance_interval is {shown(interval)}; it must be (start, end), fractions of the trajectory with "
            f"0 <= start <= end <= 1"
        )
    return ends[0], ends[1]


def _plain_plan(plan: Any) -> list[list[Any]]:
    rows = [sequence(row) for row in sequence(plan) or [None]]
    if any(row is None or any(getattr(choice, "ndim", 0) > 0 for choice in row) for row in rows):
        raise ValueError(f"layer_plan is {shown(plan)}; it must be a list of lists of choices")
    return [[number("a choice of layer_plan", choice, whole=True) for choice in row or []] for row in rows]


def _check_null(null: Any) -> None:
    if null is not None and not isinstance(null, Mapping):
        chosen("null", null, NULLS, ", or a blank per modality")
    for modality, blank in null.items() if isinstance(null, Mapping) else ():
        chosen("modality in null", modality, MODALITIES)
        chosen(f"null of {modality}", blank, ("zeros", *MODALITIES[modality].blanks))


def null_of(flow: Flow, modality: str, null: str | Mapping[str, str] | None = None) -> str:
    """Return the null context of `modality` in this flow: from `null` (see `Request`), else from its task, else
    (several contexts without a task) from the task with that context alone; `"zeros"` if there is no such task."""
    chosen = NULLS[null] if isinstance(null, str) else null or {}
    if modality in chosen:
        return chosen[modality]
    for task in (task_of(flow), task_of(Flow(flow.data, (modality,)))):
        if task is not None and modality in task.null:
            return task.null[modality]
    return "zeros"
