"""Requests on their way: what is to be run, how far it is, and why it may end early."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import Tensor

from versatile_diffusion.pipeline.opening import Opening
from versatile_diffusion.pipeline.run import Run
from versatile_diffusion.sampling.denoise import Trajectory
from versatile_diffusion.sampling.guidance import Guidance

if TYPE_CHECKING:
    import torch


class FullError(Exception):
    """Too many requests wait. Args: after: seconds after which it is worth trying again."""

    def __init__(self, message: str, after: int):
        super().__init__(message)
        self.after = after


class ClosedError(Exception):
    """The service is stopping."""


class CancelledError(Exception):
    """Whoever asked for it has turned away."""


class LateError(Exception):
    """It was not done by its deadline."""


class NoMemoryError(Exception):
    """The device has not enough memory for it, even in half a batch."""


@dataclass(frozen=True)
class Progress:
    """News of a request.

    Args:
        item: number of the item.
        step: steps taken by it, 0 when it gets its place; total: of all.
        value: the item as far as it is known (a raw value), where a preview was asked for; else None.
        preview: number of that preview, from 0.
        estimate: (...), the present estimate of its clean latent, after a step.
    """

    item: int
    step: int
    total: int
    value: Any = None
    preview: int = 0
    estimate: Tensor | None = None


Listener = Callable[[Progress], None]
Between = Callable[..., None]
"""Has the form of `callback_on_step_end`: between two steps of a call other requests move on."""


@dataclass(eq=False)
class Job:
    """A request that waits or runs.

    Args:
        client: whose it is; turns go round by client.
        deadline: on the monotonic clock.
        listener: called at every step, in the engine's thread.
        future: its result, or why there is none.
    """

    client: str
    deadline: float
    listener: Listener | None = None
    future: Future[Any] = field(default_factory=Future)
    begun: float = 0.0
    leaving: Exception | None = None

    @property
    def over(self) -> bool:
        return self.future.done()

    @property
    def waits(self) -> bool:
        """Whether a part of it has no place yet."""
        return False

    @property
    def size(self) -> int:
        """Places that its next part takes at least."""
        return 0

    @property
    def steps(self) -> int:
        """Steps of an item."""
        return 1

    @property
    def work(self) -> int:
        """Steps of all its items."""
        return 1

    def cancel(self, reason: Exception | None = None) -> None:
        """Ends it before its next step."""
        self.leaving = self.leaving or reason or CancelledError("the request was cancelled")

    def unwanted(self, now: float) -> Exception | None:
        """Why it has to end, if it has."""
        if self.leaving is None and self.future.cancelled():
            self.cancel()
        if self.leaving is None and now > self.deadline:
            self.leaving = LateError("the request was not done in time; ask for fewer steps or items, or try later")
        return self.leaving


@dataclass(eq=False)
class Call(Job):
    """Work that is no plain generation, such as encoding: it runs between steps of the others.

    Args:
        function: gets a `Between` and returns the result.
    """

    function: Callable[[Between], Any] = lambda between: None

    @property
    def waits(self) -> bool:
        return not self.begun


@dataclass(eq=False)
class Generation(Job):
    """A generation. Its items are seated as places become free, unless it has to be `alone`.

    Args:
        run: what is to be generated.
        sources: a generator for each item.
        output_type: see `VersatileDiffusionPipeline.generate`.
        alone: whether it shares no pass with other requests, so that it is the same to the last bit.
        previews: how many there are of each item on its way.
    """

    run: Run = None  # type: ignore[assignment]
    sources: list[torch.Generator] = field(default_factory=list)
    output_type: str = "pil"
    alone: bool = False
    previews: int = 0
    opening: Opening | None = None
    guidance: Guidance | None = None
    seated: int = 0
    made: dict[int, Tensor] = field(default_factory=dict)

    @property
    def items(self) -> int:
        return len(self.sources)

    @property
    def whole(self) -> bool:
        """Whether all items are seated together: for identical bits, or since their conditions act on a whole batch."""
        request = self.run.request
        return self.alone or request.mixing == "layer" or any(c.region is not None for c in request.conditions)

    @property
    def waits(self) -> bool:
        return self.seated < self.items

    @property
    def size(self) -> int:
        return self.items if self.whole else 1

    @property
    def steps(self) -> int:
        return self.run.total

    @property
    def work(self) -> int:
        return self.items * max(self.steps, 1)

    def shows(self, step: int) -> int | None:
        """Return the number of the preview after this step; None if there is none."""
        total = self.run.total
        steps = [round(total * (k + 1) / (self.previews + 1)) for k in range(self.previews)]
        return steps.index(step) if step in steps and 0 < step < total else None


@dataclass(eq=False)
class Seat:
    """Some items of a generation, on their way.

    Args:
        first: number of the first of them.
    """

    job: Generation
    first: int
    path: Trajectory
    guidance: Guidance

    @property
    def size(self) -> int:
        return len(self.path.latent)


def deadline_in(seconds: float) -> float:
    """Return the time in this many seconds, on the monotonic clock."""
    return time.monotonic() + seconds
