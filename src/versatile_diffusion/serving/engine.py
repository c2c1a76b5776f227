"""The engine: one queue and one worker for a model on one device.

Every item of a request takes a place. All items that have one go a step at a time, together: those that run the same
streams on the same shapes share a pass through the network, at whatever step each of them is, since the network takes
a timestep for each item. An item that is done leaves its place to the next that waits, so that a short request never
waits for the end of a long one.

Each item keeps its own noise, scheduler and guidance; what it becomes is the same as alone, up to the rounding of a
batch of another size. A request that has to be the same to the last bit is `alone`: it shares steps with others, but no
pass.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import Tensor

from versatile_diffusion.pipeline.names import own_names
from versatile_diffusion.pipeline.run import finish, open_run, prepare
from versatile_diffusion.sampling import seeds
from versatile_diffusion.sampling.passes import Asking, Pass
from versatile_diffusion.serving.jobs import (
    Between,
    Call,
    ClosedError,
    FullError,
    Generation,
    Job,
    Listener,
    Progress,
    Seat,
    deadline_in,
)
from versatile_diffusion.serving.limits import Limits
from versatile_diffusion.serving.passes import Passes
from versatile_diffusion.serving.turns import Turns

if TYPE_CHECKING:
    from versatile_diffusion import VersatileDiffusionPipeline
    from versatile_diffusion.flow import Condition

logger = logging.getLogger(__name__)
J = TypeVar("J", bound=Job)


class Engine:
    """Takes requests and works them off.

    Args:
        pipe: the model; from now on the engine's thread alone may compute with it.
        limits: see `Limits`.
        continuous: whether requests join while others run; else a batch is filled when the last one is done, with
            requests of the same number of steps.
        on_pass: see `Passes`.

    Attributes:
        pace: seconds of a step of all items, as lately seen.
        threads: of the processor; rounding depends on how many there are.
    """

    def __init__(
        self,
        pipe: VersatileDiffusionPipeline,
        limits: Limits | None = None,
        *,
        continuous: bool = True,
        on_pass: Callable[[int, float], None] | None = None,
    ):
        self.pipe, self.limits, self.continuous = pipe, limits or Limits(), continuous
        self.pace, self.threads = 0.1, torch.get_num_threads()
        self._turns: Turns[Job] = Turns()
        self._seats: list[Seat] = []
        self._calling: Call | None = None
        self._passes = Passes(pipe.unet, on_pass)
        self._news = threading.Condition()
        self._closing = self._stopped = False
        self._thread = threading.Thread(target=self._work, name="versatile-engine", daemon=True)
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether requests are taken."""
        return not self._closing and self._thread.is_alive()

    @property
    def alive(self) -> bool:
        """Whether the worker works, or has ended as it should."""
        return self._closing or self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Requests of which no part runs yet."""
        with self._news:
            return sum(not job.begun for job in self._turns)

    @property
    def running(self) -> int:
        """Items that have a place."""
        return sum(seat.size for seat in self._seats)

    def submit(
        self,
        data: str,
        conditions: Sequence[Condition],
        *,
        client: str = "",
        seconds: float | None = None,
        listener: Listener | None = None,
        alone: bool = False,
        previews: int = 0,
        **options: Any,
    ) -> Generation:
        """A place in the queue for a generation, whose result is an `Output`.

        Args:
            data, conditions: see `VersatileDiffusionPipeline.generate`.
            client: whose it is.
            seconds: until it must be done; at most those of the limits.
            listener: called at every step, in the engine's thread.
            alone: whether it shares no pass with others (see above).
            previews: how many the listener gets of each item on its way.
            options: of `generate`, with `seed`, `latents` and `output_type`.

        Raises:
            ValueError: what is asked is not possible, or more than is allowed.
            FullError: too many requests wait.
            ClosedError: the engine is stopping.
        """
        own = own_names(options)
        given = {name: own.pop(name, None) for name in ("seed", "latents", "output_type")}
        request = self.pipe.request(data, conditions, own)
        self.limits.check(request, prompts=1)
        run = prepare(self.pipe, request, given["seed"], None, given["latents"])
        self.limits.check(request, run.count)
        job = Generation(
            client,
            self._deadline(seconds),
            listener,
            run=run,
            sources=seeds.generators(run.candidates),
            output_type=given["output_type"] or "pil",
            alone=alone,
            previews=previews,
        )
        return self._queued(job)

    def call(self, function: Callable[[Between], Any], *, client: str = "", seconds: float | None = None) -> Call:
        """A place in the queue for other work with the model, such as encoding. Args: as of `submit`; function: gets
        what to pass as `callback_on_step_end` to whatever takes many steps.

        Raises:
            FullError, ClosedError: see `submit`.
        """
        return self._queued(Call(client, self._deadline(seconds), function=function))

    def _deadline(self, seconds: float | None) -> float:
        most = self.limits.seconds
        return deadline_in(most if seconds is None else min(seconds, most))

    def _queued(self, job: J) -> J:
        with self._news:
            if self._closing:
                raise ClosedError("the service is stopping; try another one, or later")
            waiting = [other for other in self._turns if not other.begun]
            mine = {other for other in (*self._turns, *(s.job for s in self._seats)) if other.client == job.client}
            if len(waiting) >= self.limits.waiting:
                raise FullError(f"{len(waiting)} requests wait already", self._after(waiting))
            if len(mine) >= self.limits.each:
                raise FullError(f"{len(mine)} of your requests wait or run already", self._after(list(mine)))
            self._turns.add(job)
            self._news.notify_all()
        return job

    def _after(self, jobs: Sequence[Job]) -> int:
        """Seconds after which about half of these jobs are done."""
        steps = sum(job.work for job in jobs) / self.limits.places
        return min(max(round(steps * self.pace / 2), 1), 600)

    def close(self, grace: float = 0.0) -> bool:
        """Takes no more requests, gives those that it has some seconds, and ends. Whether all of them were done."""
        with self._news:
            self._closing = True
            self._news.notify_all()
        self._thread.join(grace)
        in_time = not self._thread.is_alive()
        with self._news:
            self._stopped = True
            self._news.notify_all()
        self._thread.join(60)
        return in_time

    def _work(self) -> None:
        torch.set_num_threads(self.threads)  # some backends count for each thread
        with torch.no_grad():
            while self._wait():
                try:
                    self._round()
                except Exception as error:  # a fault of ours: those that run fail, and the next are served
                    logger.exception("a step failed")
                    for seat in list(self._seats):
                        self._fail(seat.job, error)
        for job in {*self._turns, *(seat.job for seat in self._seats)}:
            self._fail(job, ClosedError("the service stopped before this was done"))

    def _wait(self) -> bool:
        """Until there is something to do; False when the engine ends."""
        with self._news:
            if not self._seats and not self._turns:
                self._news.wait_for(lambda: self._turns or self._closing)
            return not self._stopped and bool(self._seats or self._turns or not self._closing)

    def _round(self, calls: bool = True) -> None:
        """Lets in who waits, as far as there are places, and takes one step of all items."""
        self._turn_away()
        self._admit(calls)
        before = time.monotonic()
        self._step()
        if self._seats:
            self.pace = 0.9 * self.pace + 0.1 * (time.monotonic() - before)

    def _turn_away(self) -> None:
        """Ends what nobody wants any more, or what is late."""
        now = time.monotonic()
        with self._news:
            jobs = {*self._turns, *(seat.job for seat in self._seats)}
        for job in jobs:
            if job is not self._calling and (reason := job.unwanted(now)):
                self._fail(job, reason)

    def _admit(self, calls: bool) -> None:
        """Gives free places to those whose turn it is; all wait for a part that does not fit, so it gets its turn."""
        joins = self.continuous or not self._seats
        for _ in range(2 * self.limits.places):
            with self._news:
                heads = self._turns.heads if joins else []
            heads = [job for job in heads if calls or isinstance(job, Generation)]
            heads = heads[:1] if self.continuous else [job for job in heads if self._fits(job)][:1]
            if not heads or not self._fits(job := heads[0]):
                return
            try:
                self._begin(job)
            except Exception as error:
                self._fail(job, error)

    def _rotate(self, job: Job) -> None:
        """Ends the turn of a job's client; a job of which no part waits any more leaves the line."""
        with self._news:
            if not job.waits:
                self._turns.drop(job)
            self._turns.rotate(job)

    def _fits(self, job: Job) -> bool:
        """Whether there is room for the next part of a job; one that is larger than all places runs by itself."""
        if not self._seats or not job.size:
            return True
        together = self.continuous or job.steps == self._seats[0].job.steps
        return together and self.running + job.size <= self.limits.places

    def _begin(self, job: Job) -> None:
        """Seats the next part of a generation; of a call, makes all of it."""
        job.begun = job.begun or time.monotonic()
        if isinstance(job, Call):
            self._rotate(job)
            return self._calls(job)
        assert isinstance(job, Generation)
        if job.opening is None:
            job.opening = open_run(self.pipe, job.run, job.sources)
        few = job.items if job.whole else min(job.items - job.seated, self.limits.places - self.running)
        part = slice(job.seated, job.seated + few)
        opening = job.opening.items(part)
        unet = self.pipe.network(job.run.request.fast)
        seat = Seat(job, job.seated, opening.trajectory(job.sources[part]), opening.guidance(unet))
        job.seated += few
        job.guidance = job.guidance or seat.guidance
        self._rotate(job)
        with self._news:
            self._seats.append(seat)
        for k in range(seat.size if job.listener else 0):
            job.listener(Progress(seat.first + k, 0, job.steps))  # type: ignore[misc]
        if seat.path.over:  # every step is left out: the start as it is
            self._leave(seat, seat.path.latent)

    def _calls(self, job: Call) -> None:
        self._calling = job

        def between(*_: Any, **__: Any) -> None:
            if reason := job.unwanted(time.monotonic()):
                raise reason
            self._round(calls=False)

        try:
            job.future.set_result(job.function(between))
        finally:
            self._calling = None

    def _step(self) -> None:
        """One step of every item that has a place."""
        asking: dict[Seat, Asking] = {s: s.guidance.passes(*s.path.question) for s in self._seats}
        answers: dict[Seat, Tensor | None] = dict.fromkeys(asking)
        while asking:
            asked: dict[Seat, Pass] = {}
            for seat, questions in list(asking.items()):
                try:
                    asked[seat] = questions.send(answers[seat])  # type: ignore[arg-type]
                except StopIteration as end:
                    del asking[seat]
                    self._guarded(seat, self._advance, end.value)
                except Exception as error:
                    del asking[seat]
                    self._fail(seat.job, error)
            asked = {seat: one for seat, one in asked.items() if not seat.job.over}
            answers = self._answers(asked)
            asking = {seat: questions for seat, questions in asking.items() if seat in answers}

    def _answers(self, asked: dict[Seat, Pass]) -> dict[Seat, Tensor | None]:
        """The output of each pass; those of a kind run together."""
        kinds: dict[Any, list[Seat]] = {}
        for seat, one in asked.items():
            kinds.setdefault(id(one) if seat.job.alone else one.kind, []).append(seat)
        answers: dict[Seat, Tensor | None] = {}
        for seats in kinds.values():
            for seat, answer in zip(seats, self._passes.run([asked[seat] for seat in seats]), strict=True):
                if isinstance(answer, Exception):
                    self._fail(seat.job, answer)
                else:
                    answers[seat] = answer
        return {seat: answer for seat, answer in answers.items() if not seat.job.over}

    def _guarded(self, seat: Seat, work: Callable[..., None], *given: Any) -> None:
        try:
            work(seat, *given)
        except Exception as error:
            self._fail(seat.job, error)

    def _advance(self, seat: Seat, output: Tensor) -> None:
        """Advance a seat by a step, report it to the listener, and remove what is done."""
        job = seat.job
        state = seat.path.advance(output)
        if job.listener is not None:
            number = job.shows(state.index + 1)
            few: Sequence[Any] = [None] * seat.size
            if number is not None:
                few = self.pipe.bank.codecs[job.run.request.data].decode(state.pred_x0.float())
            for k, value in enumerate(few):
                estimate = state.pred_x0[k]
                job.listener(Progress(seat.first + k, state.index + 1, state.total, value, number or 0, estimate))
        if seat.path.over:
            self._leave(seat, state.latent)

    def _leave(self, seat: Seat, latent: Tensor) -> None:
        """The items of a seat are done; with the last of a job its output is made."""
        job = seat.job
        with self._news:
            self._seats.remove(seat)
        job.made |= {seat.first + k: one for k, one in enumerate(latent)}
        if len(job.made) == job.items:
            latents = torch.stack([job.made[k] for k in range(job.items)])
            assert job.guidance is not None
            output = finish(self.pipe, job.run, latents, job.sources, job.guidance, job.output_type)
            job.future.set_result(output)
            if not self._seats and not self._turns:
                self.pipe.maybe_free_model_hooks()

    def _fail(self, job: Job, reason: Exception) -> None:
        """Ends a job that has no result, and frees its places."""
        with self._news:
            self._turns.drop(job)
            self._seats = [seat for seat in self._seats if seat.job is not job]
        if not job.over:
            job.future.set_exception(reason)
