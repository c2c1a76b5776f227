"""What is asked of a pipeline, checked before any heavy work, and the record of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from versatile_diffusion.choices import unknown
from versatile_diffusion.flow import MOST_GUIDANCE, Condition, Flow
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.sampling.guidance import MIXINGS, WHOLE
from versatile_diffusion.sampling.schedulers import SCHEDULERS
from versatile_diffusion.tasks import NULLS, TASKS, Task

MOST_SIDE = 4096
"""Pixels: what is larger is taken for a slip, since it would fill the memory rather than end."""
LIMITS: dict[str, tuple[float, float]] = {
    "num_outputs": (1, math.inf),
    "candidates": (1, math.inf),
    "num_inference_steps": (1, 1000),
    "guidance_scale": (0, MOST_GUIDANCE),
    "guidance_rescale": (0, 1),
    "eta": (0, 1),
    "fidelity": (0, 1),
    "height": (1, MOST_SIDE),
    "width": (1, MOST_SIDE),
    "temperature": (0, math.inf),
    "top_k": (0, math.inf),
    "top_p": (0, 1),
    "max_length": (2, math.inf),
    "layer_seed": (0, 2**32),
}
COUNTS = {"num_outputs", "candidates", "num_inference_steps", "height", "width", "top_k", "max_length", "layer_seed"}
NAMES: dict[str, Mapping[str, Any]] = {"mixing": MIXINGS, "scheduler": SCHEDULERS}
DECODING = ("temperature", "top_k", "top_p", "max_length")
RAW = ("conditions", "start", "repaint")
"""Fields that may hold pictures or arrays; a record has their hash."""


@dataclass(frozen=True)
class Request:
    """What to generate, from what, and how.

    Args:
        data: the modality to generate.
        conditions: what guides. Values may be lists with one entry per prompt; single values serve every prompt.
        mixing: how several conditions act together: a key of `MIXINGS`: `"attention"`, `"layer"` or `"model"` level, or
            `"join"`.
        num_inference_steps: steps of the scheduler.
        guidance_scale: of classifier-free guidance, for conditions without one of their own; 1 switches it off.
        guidance_interval: shares of the trajectory, 0 (noise) to 1 (done), between which there is guidance; the other
            steps cost one pass, not two.
        guidance_rescale: how much of guidance's overshoot is taken back, 0 to 1 (against burnt colours).
        num_outputs: items per prompt.
        candidates: how many are made for each item, of which the one is kept that agrees best with the conditions.
        height, width: of a picture in pixels; the codec's own size where left out.
        eta: noise added at each DDIM step, 0 none, 1 as much as DDPM.
        scheduler: a key of `SCHEDULERS`; the model's own where left out.
        null: what stands for no guidance, where that is not to be as the task says: a key of `NULLS` (`"2022"`,
            `"2023"`), or per modality `"zeros"` or the name of one of its blanks.
        negative_prompt: text that takes the place of the empty text in guidance.
        style: a key of the model's style table; its phrase is added to every text condition.
        start: raw value (or latents) of the modality to generate, from which generation begins.
        fidelity: how much of `start` is kept, 0 (nothing) to 1 (it comes back unchanged).
        repaint: the part of `start` that is made anew, all else is kept exactly: a mask (white is made anew), or a box
            (left, top, right, bottom) in shares of the canvas.
        temperature, top_k, top_p: how texts are decoded; temperature 0 takes the likeliest token.
        max_length: most tokens of a text.
        rank: whether what was made is ranked by its agreement with the conditions (`Output.ranking`).
        layer_seed: draws the choices of layer mixing (the same for all items, so not from the items' seeds).
        layer_plan: in place of drawing them, for each step (or for all) the condition that each context block takes, by
            its number among those of a weight above 0; `Output.layer_plan` is one.

    Raises:
        ValueError: a value is not allowed; the message says what is.
    """

    data: str
    conditions: tuple[Condition, ...]
    mixing: str = "attention"
    num_inference_steps: int = 50
    guidance_scale: float = 7.5
    guidance_interval: Sequence[float] = WHOLE
    guidance_rescale: float = 0.0
    num_outputs: int = 1
    candidates: int = 1
    height: int | None = None
    width: int | None = None
    eta: float = 0.0
    scheduler: str | None = None
    null: str | Mapping[str, str] | None = None
    negative_prompt: str | Sequence[str] | None = None
    style: str | None = None
    start: Any = None
    fidelity: float = 0.0
    repaint: Any = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    max_length: int | None = None
    rank: bool = False
    layer_seed: int = 0
    layer_plan: Sequence[Sequence[int]] | None = None

    def __post_init__(self) -> None:
        if not self.conditions:
            raise ValueError("conditions is empty; at least one condition must guide")
        if sum(condition.weight for condition in self.conditions) == 0:
            raise ValueError("all conditions have weight 0; at least one must be above 0")
        for name, (least, most) in LIMITS.items():
            _check_number(name, getattr(self, name), least, most)
        for name, table in NAMES.items():
            if getattr(self, name) is not None and getattr(self, name) not in table:
                raise ValueError(unknown(name, getattr(self, name), table))
        if self.start is None and self.repaint is not None:
            raise ValueError("repaint is the part of a start that is made anew, and there is no start")
        if (self.start is None) != (self.fidelity == 0) and self.repaint is None:
            raise ValueError("start and fidelity (above 0) go together: what to begin from, and how much of it to keep")
        _check_negative(self.negative_prompt)
        _check_interval(self.guidance_interval)
        _check_null(self.null)
        if self.layer_plan is not None and self.mixing != "layer":
            raise ValueError(f"layer_plan goes with mixing 'layer', not {self.mixing!r}")
        if not MIXINGS[self.mixing].regions and any(condition.region is not None for condition in self.conditions):
            able = [name for name, mixing in MIXINGS.items() if mixing.regions]
            raise ValueError(f"a region works with mixing {' or '.join(able)}, not {self.mixing!r}")

    @property
    def flow(self) -> Flow:
        return Flow(self.data, tuple(dict.fromkeys(condition.modality for condition in self.conditions)))

    @property
    def task(self) -> Task | None:
        return task_of(self.flow)

    @property
    def copies(self) -> int:
        """How many are made per prompt; those of an item next to each other."""
        return self.num_outputs * self.candidates

    @property
    def size(self) -> dict[str, int]:
        """What the codec is told of the size."""
        return {name: getattr(self, name) for name in ("height", "width") if getattr(self, name) is not None}

    @property
    def decoding(self) -> dict[str, float]:
        """What the codec is told of decoding."""
        return {name: getattr(self, name) for name in DECODING if getattr(self, name) is not None}

    def record(self) -> dict[str, Any]:
        """Plain JSON: everything but what may hold pictures or arrays."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in RAW}
        plain["guidance_interval"] = list(self.guidance_interval)
        plain["null"] = dict(self.null) if isinstance(self.null, Mapping) else self.null
        if self.layer_plan is not None:
            plain["layer_plan"] = [list(choices) for choices in self.layer_plan]
        task = self.task
        return {"task": task.name if task else str(self.flow), **plain}


def _check_number(name: str, value: Any, least: float, most: float) -> None:
    if value is None:
        return
    kind = int if name in COUNTS else (int, float)
    if isinstance(value, bool) or not isinstance(value, kind) or not least <= value <= most:
        what = "a whole number" if name in COUNTS else "a number"
        upper = f" to {most:g}" if math.isfinite(most) else " up"
        raise ValueError(f"{name} is {value!r}; it must be {what} from {least:g}{upper}")


def _check_negative(negative: Any) -> None:
    texts = negative if isinstance(negative, list | tuple) else () if negative is None else (negative,)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"negative_prompt is {negative!r}; it must be a text, or one for each prompt")


def _check_interval(interval: Any) -> None:
    numbers = isinstance(interval, list | tuple) and all(isinstance(end, int | float) for end in interval)
    if not numbers or len(interval) != 2 or not 0 <= interval[0] <= interval[1] <= 1:
        raise ValueError(
            f"guidance_interval is {interval!r}; it must be (start, end), shares of the trajectory with "
            f"0 <= start <= end <= 1"
        )


def _check_null(null: Any) -> None:
    if null is not None and not isinstance(null, Mapping) and null not in NULLS:
        raise ValueError(unknown("null", null, NULLS, ", or a blank for each modality"))
    for modality, blank in null.items() if isinstance(null, Mapping) else ():
        if modality not in MODALITIES:
            raise ValueError(f"null names an unknown modality {modality!r}; allowed: {', '.join(MODALITIES)}")
        if blank not in (known := ("zeros", *MODALITIES[modality].blanks)):
            raise ValueError(unknown(f"null of {modality}", blank, known))


def task_of(flow: Flow) -> Task | None:
    """The task with this flow, whatever the order of its contexts."""
    same = (t for t in TASKS.values() if t.flow.data == flow.data and set(t.flow.contexts) == set(flow.contexts))
    return next(same, None)


def null_of(flow: Flow, modality: str, null: str | Mapping[str, str] | None = None) -> str:
    """What stands for no guidance by `modality` in this flow: as `null` (see `Request`) or else its task says, or
    (several contexts that are no task) the task with that context alone; `"zeros"` where no task is known."""
    chosen = NULLS[null] if isinstance(null, str) else null or {}
    if modality in chosen:
        return chosen[modality]
    for task in (task_of(flow), task_of(Flow(flow.data, (modality,)))):
        if task is not None and modality in task.null:
            return task.null[modality]
    return "zeros"
