"""What people ask for and how far it is: plain values, without a model and without a browser."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from versatile_diffusion.flow import Condition
from versatile_diffusion.sampling.request import Request

if TYPE_CHECKING:
    from versatile_diffusion import VersatileDiffusionPipeline
    from versatile_diffusion.sampling.output import Output

Call = Callable[..., "Output"]
"""`(pipe, callback_on_step_end=..., **arguments) -> Output`, for what `generate` alone does not do."""


class BusyError(ValueError):
    """There are too many requests; the message says what to do."""


@dataclass(frozen=True)
class Limits:
    """What one person, and all of them together, may ask for.

    Args:
        waiting: requests of all people that may wait.
        each: requests of one person that may wait or run.
        items: pictures or texts of one run.
        steps: of one run.
        side: of a picture in pixels.
        runs: of one request (the cells of a sweep).
        batch: items of several people that are made together.
        kept: results of one person that stay in the history.
        megabytes: of one uploaded file.
    """

    waiting: int = 32
    each: int = 3
    items: int = 16
    steps: int = 200
    side: int = 1024
    runs: int = 36
    batch: int = 8
    kept: int = 200
    megabytes: int = 25


@dataclass(frozen=True)
class Ask:
    """One run: arguments of `VersatileDiffusionPipeline.generate`, or of another call.

    Args:
        data: the modality to generate.
        conditions: what guides.
        arguments: the others, with `seed`.
        call: runs in place of `generate` (and gets no conditions).
        after: what is done to the output, such as matching its colours.
        label: what tells it from the other runs of a request.
    """

    data: str
    conditions: tuple[Condition, ...]
    arguments: Mapping[str, Any]
    call: Call | None = None
    after: Callable[[Output], Output] | None = None
    label: str = ""

    @property
    def items(self) -> int:
        return int(self.arguments.get("num_outputs", 1))

    def steps(self, pipe: VersatileDiffusionPipeline, default: int = 50) -> int:
        """How many steps it will take, as far as can be told before."""
        given = self.arguments.get("num_inference_steps")
        usual = {task.flow.data: pipe.config.defaults.get(task.name, {}) for task in pipe.tasks()}
        return int(given or usual.get(self.data, {}).get("num_inference_steps", default))

    def check(self, limits: Limits) -> None:
        """ValueError if it asks for what cannot be, or for more than is allowed."""
        tries = int(self.arguments.get("candidates") or 1)
        given = {"count (times tries)": self.items * tries, "steps": self.arguments.get("num_inference_steps") or 0}
        given |= {side: self.arguments.get(side) or 0 for side in ("height", "width")}
        most = {"count (times tries)": limits.items, "steps": limits.steps, "height": limits.side, "width": limits.side}
        for name, value in given.items():
            if value > most[name]:
                raise ValueError(f"{name} is {value}; this studio allows up to {most[name]}")
        if self.call is None:
            Request(self.data, self.conditions, **{k: v for k, v in self.arguments.items() if k != "seed"})

    @property
    def kind(self) -> object:
        """Equal for runs that can be one batch; unique where a run has to be alone."""
        arguments = {name: value for name, value in self.arguments.items() if name != "seed"}
        alone = self.call or any(arguments.get(name) is not None for name in ("start", "repaint", "rank", "candidates"))
        if alone or any(c.tokens is not None or c.negative is not None for c in self.conditions):
            return object()
        conditions = [
            (c.modality, c.weight, c.guidance_scale, c.focus, c.start, c.end, c.region) for c in self.conditions
        ]
        return repr((self.data, sorted(arguments.items()), conditions))


@dataclass
class Job:
    """A request on its way: some runs, one after the other.

    Args:
        person: whose it is; turns go by person.
        place: the tab that it came from.
        asks: its runs.
    """

    person: str
    place: str
    asks: tuple[Ask, ...]
    state: str = "waiting"  # then "running", and "done", "failed" or "stopped" in the end
    outputs: list[Output] = field(default_factory=list)
    step: int = 0
    steps: int = 0
    ahead: int = 0
    wait: float = 0.0
    previews: tuple[Any, ...] = ()
    message: str = ""
    version: int = 0
    begun: float = 0.0
    seconds: float = 0.0
    stopping: bool = False

    @property
    def over(self) -> bool:
        return self.state in ("done", "failed", "stopped")

    @property
    def ask(self) -> Ask:
        """The run whose turn it is."""
        return self.asks[len(self.outputs)]

    @property
    def share(self) -> float:
        """How much of it is done, 0 to 1."""
        present = self.step / self.steps if self.steps else 0.0
        return min(1.0, (len(self.outputs) + present) / len(self.asks))

    @property
    def left(self) -> float | None:
        """Seconds until it is done, judged by those that passed; None before there is anything to judge by."""
        if not self.begun or self.share <= 0:
            return None
        return (time.monotonic() - self.begun) * (1 - self.share) / self.share

    def told(self, **news: Any) -> None:
        """Takes down news; `version` counts them, so that others see that there are some."""
        for name, value in news.items():
            setattr(self, name, value)
        self.version += 1


def merged(asks: Sequence[Ask]) -> tuple[tuple[Condition, ...], dict[str, Any]]:
    """Conditions and arguments of runs of one kind as one batch, with a value for each."""
    first = asks[0]
    if len(asks) == 1:
        return first.conditions, dict(first.arguments)
    rows = zip(*(ask.conditions for ask in asks), strict=True)
    conditions = []
    for row in rows:
        masks = [condition.mask for condition in row]
        mask = masks if any(one is not None for one in masks) else None
        conditions.append(replace(row[0], value=[condition.value for condition in row], mask=mask))
    seeds = [ask.arguments["seed"] + k for ask in asks for k in range(ask.items)]
    return tuple(conditions), {**first.arguments, "seed": seeds}


def divided(output: Output, parts: int) -> list[Output]:
    """The output of a batch as one output for each run, whose settings tell of that run alone."""
    if parts == 1:
        return [output]
    size = len(output) // parts
    made = []
    for k in range(parts):
        mine = slice(k * size, (k + 1) * size)
        conditions = [_own(record, k) for record in output.settings["conditions"]]
        settings = {**output.settings, "conditions": conditions, "seeds": output.settings["seeds"][mine]}
        values, latents = output.values[mine], output.latents[mine]
        made.append(replace(output, values=values, latents=latents, settings=settings, prompts=output.prompts[mine]))
    return made


def _own(record: Mapping[str, Any], k: int) -> dict[str, Any]:
    """The record of a condition with the values of the k-th run alone."""
    own = {name: [record[name][k]] for name in ("values", "mask") if isinstance(record.get(name), list)}
    return {name: value for name, value in {**record, **own}.items() if not (name == "mask" and value == [None])}
