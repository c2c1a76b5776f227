"""The desk: what the people of the studio ask for, and how far it is. The engine of `serving/` runs it.

Of each request one run at a time waits in the engine, where turns go round by client: a sweep of one person holds up
nobody else, and nobody gets more turns by opening more pages. Runs of several people share the passes of the network.
"""

from __future__ import annotations

import logging
import math
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable
from concurrent.futures import CancelledError as FutureCancelledError
from concurrent.futures import Future
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch

from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.pipeline.inputs import latent_modality
from versatile_diffusion.sampling.denoise import start_step, steps_with
from versatile_diffusion.serving.engine import Engine
from versatile_diffusion.serving.jobs import CancelledError, ClosedError, FullError, LateError, NoMemoryError, Progress
from versatile_diffusion.serving.limits import Limits
from versatile_diffusion.serving.turns import Turns
from versatile_diffusion.ui.queue.jobs import Ask, BusyError, StudioJob, StudioLimits

if TYPE_CHECKING:
    from versatile_diffusion import VersatileDiffusionPipeline
    from versatile_diffusion.pipeline.output import Output
    from versatile_diffusion.serving.jobs import Between, Job

PREVIEW_EVERY = 0.4  # seconds
PREVIEW_SHARE = 8  # a preview may take at most 1/8 of the time
PREVIEWS = 8
UNBOUNDED = 1_000_000  # the desk has bounds of its own
DAY = 86_400.0  # seconds
TOLD = (ValueError, MemoryError, torch.OutOfMemoryError, NoMemoryError, FullError, LateError)
"""What people can do something about."""
logger = logging.getLogger(__name__)


def engine_for(pipe: VersatileDiffusionPipeline, limits: StudioLimits) -> Engine:
    """An engine for a studio that has the model for itself."""
    bounds = Limits(
        places=limits.batch,
        waiting=UNBOUNDED,
        each=UNBOUNDED,
        items=limits.items,
        steps=limits.steps,
        side=limits.side,
        tokens=limits.tokens,
        seconds=DAY,
    )
    return Engine(pipe, bounds)


class Desk:
    """Accepts requests and reports their progress.

    Args:
        pipe: the pipeline.
        limits: see `StudioLimits`.
        engine: runs the model; by default the desk creates its own and closes it.
    """

    def __init__(
        self, pipe: VersatileDiffusionPipeline, limits: StudioLimits | None = None, engine: Engine | None = None
    ):
        self.pipe, self.limits = pipe, limits or StudioLimits()
        self._owned = engine is None
        self.engine = engine or engine_for(pipe, self.limits)
        self._turns: Turns[StudioJob] = Turns(lambda job: job.person)
        self._places: dict[int, Job] = {}  # of the present run of each job, in the engine
        self._halts: OrderedDict[tuple[str, str], float] = OrderedDict()
        self._news = threading.RLock()
        self._closed = False

    @property
    def pace(self) -> float:
        """Seconds a step, as lately seen."""
        return self.engine.pace

    def submit(self, person: str, place: str, asks: Iterable[Ask], client: str | None = None) -> StudioJob:
        """Queue a request.

        Args:
            person: id of an open page.
            place: its tab.
            asks: the runs; at most the allowed number is read.
            client: client of the page; by default each page is its own.

        Raises:
            ValueError: an invalid request, or one above the limits.
            BusyError: the queue is full.
        """
        few = tuple(islice(asks, self.limits.runs + 1))
        if not 0 < len(few) <= self.limits.runs:
            more = " or more" if few else ""
            raise ValueError(f"the request has {len(few)} runs{more}; this studio allows 1 to {self.limits.runs}")
        for ask in few:
            ask.check(self.limits, self.pipe)
        job = StudioJob(person, place, few, person if client is None else client)
        with self._news:
            if self._closed:
                raise BusyError("the studio is closing")
            mine = self._turns.count(job.client)
            if mine >= self.limits.each:
                raise BusyError(f"{mine} of your requests are already waiting; stop one, or wait")
            waiting = len(self._jobs())
            if waiting >= self.limits.waiting:
                about = round(waiting * self.pace * 25)
                raise BusyError(
                    f"the studio is busy: {waiting} requests are waiting; try again in about {about} seconds"
                )
            self._turns.add(job)
            self._tell_places()
        self._send(job)
        return job

    def stop(self, job: StudioJob) -> None:
        """Stop a job: at once if waiting, after the current step if running."""
        with self._news:
            if job.over:
                return
            job.stopping = True
            place = self._places.get(id(job))
            if not job.begun:
                self._end(job, "stopped")
        if place is not None:
            place.cancel()

    def halt(self, person: str, place: str, at: float) -> None:
        """Stop all requests of a person in a tab. Requests can overtake each other, so the browser's time of the stop
        is stored (see `halted`)."""
        with self._news:
            self._halts[person, place] = at
            if len(self._halts) > self.limits.visitors:
                self._halts.popitem(last=False)
        for job in self.jobs(person, place):
            self.stop(job)

    def halted(self, person: str, place: str, begun: float) -> bool:
        """Return whether a person stopped a tab after a request began, by their browser's clock."""
        return self._halts.get((person, place), -math.inf) >= begun

    def leave(self, person: str) -> None:
        """Stop all requests of a person."""
        for job in [job for job in self._jobs() if job.person == person]:
            self.stop(job)
        with self._news:
            for place in [place for place in self._halts if place[0] == person]:
                del self._halts[place]

    @property
    def busy(self) -> bool:
        """Whether requests run or wait."""
        return bool(self._jobs())

    def jobs(self, person: str, place: str) -> list[StudioJob]:
        """Return a person's unfinished jobs in a tab."""
        return [job for job in self._jobs() if (job.person, job.place) == (person, place)]

    def _jobs(self) -> list[StudioJob]:
        """Return all waiting and running jobs, in turn order."""
        with self._news:
            return list(self._turns)

    def close(self) -> None:
        """Ends everything; the engine, too, if it is this desk's."""
        with self._news:
            self._closed = True
        for job in self._jobs():
            self.stop(job)
        if self._owned:
            self.engine.close(grace=30)

    def _send(self, job: StudioJob) -> None:
        """The next run of a job goes into the engine."""
        ask = job.ask
        watch = _Watch(self, job, ask)
        try:
            place: Job
            if ask.call is None:
                more: dict[str, Any] = {"client": job.client, "listener": watch.hear, **ask.arguments}
                place = self.engine.submit(ask.data, ask.conditions, **more)
            else:
                place = self.engine.call(watch.run, client=job.client)
        except Exception as error:
            return self._failed(job, error)
        with self._news:
            self._places[id(job)] = place
            stopping = job.stopping
        if stopping:
            place.cancel()
        place.future.add_done_callback(lambda future: self._done(job, ask, future))

    def _done(self, job: StudioJob, ask: Ask, future: Future[Output]) -> None:
        """A run of a job is over: its output is kept, and the next run goes into the engine."""
        try:
            output = future.result()
            output = ask.after(output) if ask.after else output
        except Exception as error:
            return self._failed(job, error)
        with self._news:
            if job.over:
                return
            job.outputs.append(output)
            job.told(step=0, steps=0)
            if job.stopping:
                return self._end(job, "stopped")
            if len(job.outputs) == len(job.asks):
                return self._end(job, "done")
        self._send(job)

    def _failed(self, job: StudioJob, error: Exception) -> None:
        """A job ends without its result."""
        state, message = "failed", ""
        if isinstance(error, CancelledError | ClosedError | FutureCancelledError):
            state = "stopped"
        elif isinstance(error, TOLD):
            message = _sentence(error)
        else:
            reference = secrets.token_hex(3)
            logger.error("request %s failed", reference, exc_info=error)
            message = f"Something went wrong in the studio; its log has the details under {reference}."
        with self._news:
            if not job.over:
                self._end(job, state, message)

    def started(self, job: StudioJob) -> None:
        """The engine has begun with a job."""
        with self._news:
            if not job.over and job.state != "running":
                self._turns.rotate(job)
                job.told(state="running", step=0, steps=0, begun=job.begun or time.monotonic())
                self._tell_places()

    def _end(self, job: StudioJob, state: str, message: str = "") -> None:
        """Takes a job off the list. The lock is held."""
        self._places.pop(id(job), None)
        self._turns.drop(job)
        seconds = time.monotonic() - job.begun if job.begun else 0.0
        job.told(state=state, message=message, previews=(), seconds=seconds)
        self._tell_places()

    def _tell_places(self) -> None:
        """Update the queue position of each waiting job. The lock must be held."""
        order = self._jobs()
        running = [job for job in order if job.begun]
        seconds = sum(job.left or 0.0 for job in running)
        place = len(running)
        for job in order:
            if job.begun:
                continue
            if (job.ahead, job.version) != (place, 0):
                job.told(ahead=place, wait=seconds)
            place += 1
            seconds += sum(ask.steps(self.pipe) for ask in job.asks) * self.pace


class _Watch:
    """Called at each step of a run, in the engine's thread: reports progress to the job and renders previews."""

    def __init__(self, desk: Desk, job: StudioJob, ask: Ask):
        self.desk, self.job, self.ask = desk, job, ask
        self.items = ask.items * ask.prompts * int(ask.arguments.get("candidates") or 1)
        self.looked = time.monotonic()
        self.cost = 0.0
        self.steps: dict[int, int] = {}
        self.estimates: dict[int, torch.Tensor] = {}

    def hear(self, progress: Progress) -> None:
        """A step of an item; the last item says how far the run is."""
        self.desk.started(self.job)
        self.steps[progress.item] = progress.step
        if progress.estimate is None:
            return
        self.estimates[progress.item] = progress.estimate
        step = min(self.steps.values()) if len(self.steps) >= self.items else 0
        self._tell(step, progress.total, lambda: torch.stack([self.estimates[k] for k in sorted(self.estimates)]))

    def run(self, between: Between) -> Output:
        """Other work than a plain generation."""
        ask = self.ask
        self.desk.started(self.job)

        def step(pipe: Any, step: int, timestep: int, tensors: dict[str, Any]) -> None:
            self._tell(step + 1, self.job.steps or self._total(), lambda: tensors["pred_x0"])
            between(pipe, step, timestep, tensors)

        assert ask.call is not None
        return ask.call(self.desk.pipe, callback_on_step_end=step, **ask.arguments)

    def _total(self) -> int:
        kept = float(self.ask.arguments.get("fidelity") or 0.0)
        steps = steps_with(self.ask.steps(self.desk.pipe), kept)
        return max(1, steps - start_step(steps, kept))

    def _tell(self, step: int, total: int, latents: Any) -> None:
        self.job.told(step=min(step, total), steps=total)
        now = time.monotonic()
        if step < total and now - self.looked > max(PREVIEW_EVERY, PREVIEW_SHARE * self.cost):
            with suppress(ValueError):  # latents that may be of two modalities have no preview
                self._preview(latents())
            self.looked = time.monotonic()
            self.cost = self.looked - now

    def _preview(self, latents: torch.Tensor) -> None:
        # An application may make texts on its way to pictures, so what they are is told by the latents.
        pipe, few = self.desk.pipe, latents[:PREVIEWS]
        modality = MODALITIES[latent_modality(pipe.bank, few)]
        decoded = pipe.bank.codecs[modality.name].decode(few.float())
        values = [modality.draw(value) if modality.draw else modality.line(value) for value in decoded]
        self.job.told(previews=tuple(values))


def _sentence(error: BaseException) -> str:
    """An error in one sentence for people."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError | NoMemoryError):
        return "Not enough memory; request fewer or smaller images."
    return one_sentence(error)


def one_sentence(error: BaseException, longest: int = 300) -> str:
    """Format an error message as a sentence: one line, capitalised, with a full stop."""
    message = " ".join(str(error).split()) or "the request failed"
    if len(message) > longest:
        message = f"{message[: longest - 3]}..."
    return message[0].upper() + message[1:] + ("" if message[-1] in ".!?" else ".")
