"""What the endpoints share: the engine, the names of the model, and how a result is waited for."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, Request
from fastapi.concurrency import run_in_threadpool

from versatile_diffusion.controls import REQUEST
from versatile_diffusion.printable import shown
from versatile_diffusion.serving.api.errors import NotFoundError, describe_error, failure
from versatile_diffusion.serving.api.metrics import Metrics
from versatile_diffusion.serving.api.values import Reader
from versatile_diffusion.serving.engine import Engine
from versatile_diffusion.serving.jobs import CancelledError, Job, Listener

if TYPE_CHECKING:
    from versatile_diffusion.pipeline.output import Output


SEED_HEADER = "x-versatile-seed"
"""Header with the seed of a request that has none; the front of several replicas sets it, so that one that is tried
again gives the same."""


@dataclass
class Service:
    """One model that is served.

    Args:
        engine: runs it.
        name: its id.
        metrics: its figures.
        log_prompts: whether prompts are logged.
        others: ids of the models that are served beside it, under the same address.
        created: when the service started.
    """

    engine: Engine
    name: str
    metrics: Metrics
    log_prompts: bool = False
    others: Sequence[str] = ()
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def reader(self) -> Reader:
        """Reads the values of requests."""
        return Reader(self.engine.limits.pixels)

    def check_model(self, name: str | None) -> None:
        """NotFoundError unless it is this model's name; none is always right."""
        if name is not None and name != self.name:
            known = ", ".join(map(shown, (self.name, *self.others)))
            raise NotFoundError(f"there is no model {shown(name)}; this service has {known}")

    async def generate(
        self,
        request: Request,
        data: str,
        conditions: Sequence[Any],
        options: Mapping[str, Any],
        **how: Any,
    ) -> Output:
        """An output. Args: options: of `generate`; how: of `Engine.submit`."""
        job = await self.submitted(request, data, conditions, options, **how)
        output: Output = await self.result(request, job)
        return output

    async def submitted(
        self,
        request: Request,
        data: str,
        conditions: Sequence[Any],
        options: Mapping[str, Any],
        listener: Listener | None = None,
        **how: Any,
    ) -> Job:
        """A request in the queue. Its checks run beside the event loop, which goes on meanwhile."""
        given = {name: value for name, value in options.items() if value is not None}
        if "seed" not in given and (seed := request.headers.get(SEED_HEADER, "")).isdecimal() and len(seed) < 20:
            given["seed"] = int(seed)
        job = await run_in_threadpool(
            self.engine.submit,
            data,
            list(conditions),
            client=request.state.client,
            listener=listener,
            **how,
            **given,
        )
        request.state.told |= {"data": data, "items": job.items, "steps": job.steps}
        if self.log_prompts:
            request.state.told["prompts"] = [prompt for prompt in job.run.prompts if prompt is not None]
        return job

    async def result(self, request: Request, job: Job) -> Any:
        """What became of a job; it is cancelled if the client goes away first."""
        done = asyncio.wrap_future(job.future)
        gone = asyncio.ensure_future(_wait_until_gone(request))
        try:
            await asyncio.wait({done, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not done.done():
                raise CancelledError("the client went away")
            return done.result()
        finally:
            gone.cancel()
            if not done.done():
                job.cancel()

    def record(self, output: Output) -> dict[str, Any]:
        """The complete record of an output, as the command line writes it."""
        return {**output.settings, "from_pretrained": self.name, "threads": self.engine.threads}


async def _wait_until_gone(request: Request) -> None:
    """Returns when the client has gone away."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def service_of(request: Request) -> Service:
    """The service of the app that a request came to."""
    service: Service = request.app.state.service
    return service


TheService = Annotated[Service, Depends(service_of)]


def options_in(fields: Any) -> dict[str, Any]:
    """The options of a generation among the fields of a request, and what `generate` takes besides."""
    names = [name for name in (*REQUEST, "seed", "strength") if name in type(fields).model_fields]
    return {name: value for name in names if (value := getattr(fields, name)) is not None}


def size_of(fields: Any) -> dict[str, int]:
    """Height and width of the field `size`.

    Raises:
        ValueError: it is no size, or height or width are given as well.
    """
    if fields.size in (None, "auto"):
        return {}
    width, cross, height = fields.size.partition("x")
    if not (cross and width.isdecimal() and height.isdecimal() and width.isascii() and height.isascii()):
        raise ValueError(f"size is {shown(fields.size)}; it must be WIDTHxHEIGHT, such as 512x512, or auto")
    if fields.height is not None or fields.width is not None:
        raise ValueError("size and height or width are given; give one of them")
    return {"width": int(width), "height": int(height)}


def event(error: BaseException) -> dict[str, Any]:
    """An error as the last event of a stream."""
    return failure(*describe_error(error))
