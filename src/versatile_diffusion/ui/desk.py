"""The desk: one model, one worker, and the people who wait for it.

Turns go round by person, a run at a time, so that a sweep of one does not hold up all others. Runs of several people
that differ in their values alone are made as one batch.
"""

from __future__ import annotations

import logging
import math
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import torch

from versatile_diffusion.sampling.embeddings import latent_modality
from versatile_diffusion.ui.jobs import Ask, BusyError, Job, Limits, divided, merged

if TYPE_CHECKING:
    from versatile_diffusion import VersatileDiffusionPipeline
    from versatile_diffusion.sampling.output import Output

PREVIEW_EVERY = 0.4  # seconds
PREVIEW_SHARE = 8  # a preview may cost one part in this many of the time
PREVIEWS = 8
logger = logging.getLogger(__name__)


class StoppedError(Exception):
    """All who asked for the present run have turned away."""


class Desk:
    """Takes requests and works them off.

    Args:
        pipe: the one model.
        limits: see `Limits`.
    """

    def __init__(self, pipe: VersatileDiffusionPipeline, limits: Limits | None = None):
        self.pipe, self.limits = pipe, limits or Limits()
        self.pace = 0.2  # seconds a step, as lately seen
        self._turns: OrderedDict[str, deque[Job]] = OrderedDict()
        self._running: list[Job] = []
        self._halts: dict[tuple[str, str], float] = {}
        self._news = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="versatile-desk", daemon=True)
        self._thread.start()

    def submit(self, person: str, place: str, asks: Sequence[Ask]) -> Job:
        """A place in the queue.

        Raises:
            ValueError: what is asked cannot be, or is more than is allowed.
            BusyError: too much is waiting.
        """
        if not 0 < len(asks) <= self.limits.runs:
            raise ValueError(f"these are {len(asks)} runs; this studio allows 1 to {self.limits.runs} at once")
        for ask in asks:
            ask.check(self.limits)
        job = Job(person, place, tuple(asks))
        with self._news:
            if self._closed:
                raise BusyError("the studio is closing")
            waiting = sum(map(len, self._turns.values()))
            if waiting >= self.limits.waiting:
                about = round(waiting * self.pace * 25)
                raise BusyError(f"the studio is full: {waiting} requests wait; try again in about {about} seconds")
            if len(self._turns.get(person, ())) >= self.limits.each:
                raise BusyError(f"{self.limits.each} of your requests wait already; stop one, or wait for it")
            self._turns.setdefault(person, deque()).append(job)
            self._tell_places()
            self._news.notify()
        return job

    def stop(self, job: Job) -> None:
        """Ends a job: at once if it waits, after the present step if it runs."""
        with self._news:
            if job.over:
                return
            job.stopping = True
            if job not in self._running:
                self._end(job, "stopped")

    def halt(self, person: str, place: str, at: float) -> None:
        """Ends all that someone has asked for in a tab. Requests overtake each other on their way here, so it is kept
        when that was, by the clock of their browser (see `halted`)."""
        with self._news:
            self._halts[person, place] = at
        for job in self.jobs(person, place):
            self.stop(job)

    def halted(self, person: str, place: str, begun: float) -> bool:
        """Whether someone has stopped a tab since they began a request, by the clock of their browser."""
        return self._halts.get((person, place), -math.inf) >= begun

    def leave(self, person: str) -> None:
        """Ends all that someone has asked for."""
        for job in [*self._turns.get(person, ())]:
            self.stop(job)
        with self._news:
            self._halts = {place: at for place, at in self._halts.items() if place[0] != person}

    def jobs(self, person: str, place: str) -> list[Job]:
        """What someone asked for in a tab and is not over."""
        return [job for job in [*self._turns.get(person, ())] if job.place == place]

    def close(self) -> None:
        """Ends everything and waits for the worker."""
        with self._news:
            self._closed = True
            for job in [job for jobs in self._turns.values() for job in jobs]:
                job.stopping = True
            self._news.notify()
        self._thread.join(timeout=30)

    def _work(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._closed or self._turns)
                if self._closed:
                    for job in [job for jobs in self._turns.values() for job in jobs]:
                        self._end(job, "stopped")
                    return
                batch = self._running = self._next()
            self._run(batch)
            with self._news:
                self._running = []
                for job in batch:
                    if job.stopping and not job.over:
                        self._end(job, "stopped")
                self._tell_places()

    def _next(self) -> list[Job]:
        """The job of whoever's turn it is, and those of others that can be made along with it."""
        person, jobs = next(iter(self._turns.items()))
        self._turns.move_to_end(person)
        first = jobs[0]
        batch, kind, items = [first], first.ask.kind, first.ask.items
        for other in [p for p in self._turns if p != person]:
            job = self._turns[other][0]
            fits = job.ask.items == first.ask.items and items + job.ask.items <= self.limits.batch
            if fits and not job.stopping and job.ask.kind == kind:
                self._turns.move_to_end(other)
                batch.append(job)
                items += job.ask.items
        return batch

    def _end(self, job: Job, state: str, message: str = "") -> None:
        """Takes a job off the list. The lock is held."""
        jobs = self._turns.get(job.person)
        if jobs and job in jobs:
            jobs.remove(job)
            if not jobs:
                del self._turns[job.person]
        seconds = time.monotonic() - job.begun if job.begun else 0.0
        job.told(state=state, message=message, previews=(), seconds=seconds)
        self._tell_places()

    def _tell_places(self) -> None:
        """Each waiting job learns how many turns are before it. The lock is held."""
        rounds = [list(jobs) for jobs in self._turns.values()]
        order = [jobs[k] for k in range(max(map(len, rounds), default=0)) for jobs in rounds if k < len(jobs)]
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

    def _run(self, batch: list[Job]) -> None:
        """One run for all jobs of a batch."""
        asks = [job.ask for job in batch]
        for job in batch:
            job.told(state="running", step=0, steps=0, begun=job.begun or time.monotonic())
        try:
            together = divided(self._generate(asks, _Watch(self, batch)), len(batch))
            outputs = [ask.after(one) if ask.after else one for ask, one in zip(asks, together, strict=True)]
        except StoppedError:
            return
        except (ValueError, MemoryError, torch.OutOfMemoryError) as error:
            self._failed(batch, _sentence(error))
        except Exception:
            reference = secrets.token_hex(3)
            logger.exception("request %s failed", reference)
            self._failed(batch, f"Something went wrong in the studio; its log has the details under {reference}.")
        else:
            with self._news:
                for job, output in zip(batch, outputs, strict=True):
                    job.outputs.append(output)
                    job.told(step=0, steps=0)
                    if not job.stopping and len(job.outputs) == len(job.asks):
                        self._end(job, "done")

    def _failed(self, batch: list[Job], message: str) -> None:
        """A batch of several is tried one by one, since only one may be to blame."""
        if len(batch) > 1:
            for job in batch:
                self._run([job])
            return
        with self._news:
            self._end(batch[0], "failed", message)

    def _generate(self, asks: list[Ask], watch: Any) -> Output:
        conditions, arguments = merged(asks)
        if asks[0].call is not None:
            return asks[0].call(self.pipe, callback_on_step_end=watch, **arguments)
        return self.pipe.generate(asks[0].data, conditions, callback_on_step_end=watch, **arguments)


class _Watch:
    """Called after each step: tells the jobs how far they are, makes previews, and ends what nobody wants any more."""

    def __init__(self, desk: Desk, batch: list[Job]):
        self.desk, self.batch = desk, batch
        self.started = self.looked = time.monotonic()
        self.cost = 0.0

    def __call__(self, pipe: VersatileDiffusionPipeline, step: int, timestep: int, tensors: dict[str, Any]) -> None:
        if all(job.stopping for job in self.batch):
            raise StoppedError
        now, total = time.monotonic(), self.batch[0].steps or self._total(pipe)
        self.desk.pace = 0.9 * self.desk.pace + 0.1 * (now - self.started) / (step + 1)
        for job in self.batch:
            job.told(step=min(step + 1, total), steps=total)
        if step + 1 < total and now - self.looked > max(PREVIEW_EVERY, PREVIEW_SHARE * self.cost):
            with suppress(ValueError):  # latents that may be of two modalities have no preview
                self._preview(pipe, tensors["pred_x0"])
            self.looked = time.monotonic()
            self.cost = self.looked - now

    def _total(self, pipe: VersatileDiffusionPipeline) -> int:
        ask = self.batch[0].ask
        kept = float(ask.arguments.get("fidelity") or 0.0)
        return max(1, round(ask.steps(pipe) * (1 - kept)))

    def _preview(self, pipe: VersatileDiffusionPipeline, latents: torch.Tensor) -> None:
        size = len(latents) // len(self.batch)
        wanted = [k for k, job in enumerate(self.batch) if not job.stopping]
        few = min(size, PREVIEWS)
        chosen = torch.cat([latents[k * size : k * size + few] for k in wanted])
        # An application may make texts on its way to pictures, so what they are is told by the latents.
        values = pipe.bank.codecs[latent_modality(pipe.bank, chosen)].decode(chosen.float())
        for place, k in enumerate(wanted):
            self.batch[k].told(previews=tuple(values[place * few : (place + 1) * few]))


def _sentence(error: BaseException) -> str:
    """An error in one sentence for people."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return "There is not enough memory for this; ask for fewer or smaller pictures."
    return one_sentence(error)


def one_sentence(error: BaseException, longest: int = 300) -> str:
    """The message of an error as a sentence: one line, a capital at the start, a full stop at the end."""
    message = " ".join(str(error).split()) or "this did not work"
    if len(message) > longest:
        message = f"{message[: longest - 3]}..."
    return message[0].upper() + message[1:] + ("" if message[-1] in ".!?" else ".")
