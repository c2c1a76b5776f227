"""What is asked of a pipeline, checked before any heavy work, and the record of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from versatile_diffusion.flow import Condition, Flow
from versatile_diffusion.sampling.guidance import MIXINGS
from versatile_diffusion.sampling.schedulers import SCHEDULERS
from versatile_diffusion.tasks import TASKS, Task

LIMITS: dict[str, tuple[float, float]] = {
    "num_outputs": (1, math.inf),
    "num_inference_steps": (1, 1000),
    "guidance_scale": (0, 1000),
    "eta": (0, 1),
    "fidelity": (0, 1),
    "height": (1, math.inf),
    "width": (1, math.inf),
    "temperature": (0, math.inf),
    "top_k": (0, math.inf),
    "top_p": (0, 1),
    "layer_seed": (0, 2**32),
}
WHOLE = {"num_outputs", "num_inference_steps", "height", "width", "top_k", "layer_seed"}
NAMES: dict[str, Mapping[str, Any]] = {"mixing": MIXINGS, "scheduler": SCHEDULERS}
DECODING = ("temperature", "top_k", "top_p")


@dataclass(frozen=True)
class Request:
    """What to generate, from what, and how.

    Args:
        data: the modality to generate.
        conditions: what guides. Values may be lists with one entry per prompt; single values serve every prompt.
        mixing: how several conditions act together: `"attention"`, `"layer"` or `"model"` level.
        num_inference_steps: steps of the scheduler.
        guidance_scale: of classifier-free guidance; 1 switches it off.
        num_outputs: items per prompt.
        height, width: of a picture in pixels; the codec's own size where left out.
        eta: noise added at each DDIM step, 0 none, 1 as much as DDPM.
        scheduler: a key of `SCHEDULERS`; the model's own where left out.
        negative_prompt: text that takes the place of the empty text in guidance.
        style: a key of the model's style table; its phrase is added to every text condition.
        start: raw value (or latents) of the modality to generate, from which generation begins.
        fidelity: how much of `start` is kept, 0 (nothing) to 1 (it comes back unchanged).
        temperature, top_k, top_p: how texts are decoded; temperature 0 takes the likeliest token.
        layer_seed: draws the choices of layer mixing (the same for all items, so not from the items' seeds).

    Raises:
        ValueError: a value is not allowed; the message says what is.
    """

    data: str
    conditions: tuple[Condition, ...]
    mixing: str = "attention"
    num_inference_steps: int = 50
    guidance_scale: float = 7.5
    num_outputs: int = 1
    height: int | None = None
    width: int | None = None
    eta: float = 0.0
    scheduler: str | None = None
    negative_prompt: str | Sequence[str] | None = None
    style: str | None = None
    start: Any = None
    fidelity: float = 0.0
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    layer_seed: int = 0

    def __post_init__(self) -> None:
        if not self.conditions:
            raise ValueError("conditions is empty; at least one condition must guide")
        if sum(condition.weight for condition in self.conditions) == 0:
            raise ValueError("all conditions have weight 0; at least one must be above 0")
        for name, (least, most) in LIMITS.items():
            _check_number(name, getattr(self, name), least, most)
        for name, table in NAMES.items():
            if getattr(self, name) is not None and getattr(self, name) not in table:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}; allowed: {', '.join(table)}")
        if (self.start is None) != (self.fidelity == 0):
            raise ValueError("start and fidelity (above 0) go together: what to begin from, and how much of it to keep")

    @property
    def flow(self) -> Flow:
        return Flow(self.data, tuple(dict.fromkeys(condition.modality for condition in self.conditions)))

    @property
    def task(self) -> Task | None:
        return task_of(self.flow)

    @property
    def size(self) -> dict[str, int]:
        """What the codec is told of the size."""
        return {name: getattr(self, name) for name in ("height", "width") if getattr(self, name) is not None}

    @property
    def decoding(self) -> dict[str, float]:
        """What the codec is told of decoding."""
        return {name: getattr(self, name) for name in DECODING if getattr(self, name) is not None}

    def record(self) -> dict[str, Any]:
        """Plain JSON: everything but the conditions and the start, which `GivenCondition.record` writes."""
        plain = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("conditions", "start")}
        task = self.task
        return {"task": task.name if task else str(self.flow), **plain}


def _check_number(name: str, value: Any, least: float, most: float) -> None:
    if value is None:
        return
    kind = int if name in WHOLE else (int, float)
    if isinstance(value, bool) or not isinstance(value, kind) or not least <= value <= most:
        what = "a whole number" if name in WHOLE else "a number"
        upper = f" to {most:g}" if math.isfinite(most) else " up"
        raise ValueError(f"{name} is {value!r}; it must be {what} from {least:g}{upper}")


def task_of(flow: Flow) -> Task | None:
    """The task with this flow, whatever the order of its contexts."""
    same = (t for t in TASKS.values() if t.flow.data == flow.data and set(t.flow.contexts) == set(flow.contexts))
    return next(same, None)


def null_of(flow: Flow, modality: str) -> str:
    """What stands for no guidance by `modality` in this flow: as its task says, or (several contexts that are no task)
    the task with that context alone; `"zeros"` where no task is known."""
    for task in (task_of(flow), task_of(Flow(flow.data, (modality,)))):
        if task is not None and modality in task.null:
            return task.null[modality]
    return "zeros"
