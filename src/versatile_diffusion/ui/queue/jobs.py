"""What people ask for and how far it is: plain values, without a model and without a browser."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from versatile_diffusion.flow import Condition
from versatile_diffusion.pipeline.request import Request

if TYPE_CHECKING:
    from versatile_diffusion import VersatileDiffusionPipeline
    from versatile_diffusion.pipeline.output import Output

Call = Callable[..., "Output"]
"""`(pipe, callback_on_step_end=..., **arguments) -> Output`, for what `generate` alone does not do."""


class BusyError(ValueError):
    """There are too many requests; the message says what to do."""


@dataclass(frozen=True)
class StudioLimits:
    """What one person, and all of them together, may ask for.

    Args:
        waiting: requests of all clients that may wait.
        each: requests of one client (a login, or an address where there are none) that may wait or run.
        items: images or texts of one run.
        steps: of one run.
        side: of an image in pixels.
        tokens: of a text that is generated.
        runs: of one request (the cells of a sweep).
        batch: items that are generated at the same time, of one person or several.
        kept: results of one person that stay in the history.
        megabytes: of one uploaded file.
        uploaded: megabytes that one client uploads at once, and as much again in an hour.
        stored: megabytes of all uploads and results.
        visitors: open pages that are remembered; those unused for longest are forgotten first.
        hours: for which they, their uploads and their results are kept without being used.
    """

    waiting: int = 32
    each: int = 6
    items: int = 16
    steps: int = 200
    side: int = 1024
    tokens: int = 512
    runs: int = 36
    batch: int = 8
    kept: int = 200
    megabytes: int = 25
    uploaded: int = 120
    stored: int = 4000
    visitors: int = 1000
    hours: float = 6.0


@dataclass(frozen=True)
class Ask:
    """One run: arguments of `VersatileDiffusionPipeline.generate`, or of another call.

    Args:
        data: the modality to generate.
        conditions: the conditions.
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
        """Return the number of steps it will take, as far as it is known beforehand."""
        given = self.arguments.get("num_inference_steps")
        usual = {task.flow.data: pipe.config.defaults.get(task.name, {}) for task in pipe.tasks()}
        return int(given or usual.get(self.data, {}).get("num_inference_steps", default))

    @property
    def prompts(self) -> int:
        """How many items it has for each that is asked for: one for each value of a condition."""
        values = (len(c.value) for c in self.conditions if isinstance(c.value, list | tuple))
        tokens = (len(c.tokens) for c in self.conditions if c.tokens is not None and c.tokens.ndim == 3)
        return max([1, *values, *tokens])

    def check(self, limits: StudioLimits, pipe: VersatileDiffusionPipeline) -> None:
        """ValueError if it asks for what cannot be, or (by the model's defaults, too) for more than is allowed."""
        given = self.arguments.get
        tries = given("candidates") or 1
        most = {
            "count": (given("num_outputs", 1), limits.items),
            "candidates": (tries, limits.items),
            "steps": (given("num_inference_steps") or self.steps(pipe), limits.steps),
            "height": (given("height") or 0, limits.side),
            "width": (given("width") or 0, limits.side),
            "max_length": (given("max_length") or 0, limits.tokens),
        }
        for name, (value, limit) in most.items():
            _at_most(name, value, limit)
        _at_most("count (times tries)", self.items * self.prompts * int(tries), limits.items)
        if self.call is None:
            Request(self.data, self.conditions, **{k: v for k, v in self.arguments.items() if k != "seed"})


def _at_most(name: str, value: Any, limit: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value <= limit:
        raise ValueError(f"{name} is {value}; this studio allows up to {limit}")


@dataclass
class StudioJob:
    """A request on its way: some runs, one after the other.

    Args:
        person: whose it is: an open page.
        place: the tab that it came from.
        asks: its runs.
        client: whose page that is; turns and limits go by client, and among the pages of one client by page.
    """

    person: str
    place: str
    asks: tuple[Ask, ...]
    client: str = ""
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
