"""The service on Ray: replicas of the app, each with the model and an engine, behind a front that retries.

The front gives a request that has no seed one, so that what a replica had begun when it died is the same when another
does it again. It is tried again once, and only as long as nothing of the answer has been sent.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import ray
from ray import serve
from ray.exceptions import RayActorError
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from versatile_diffusion.sampling.seeds import DRAWN
from versatile_diffusion.serving.api.errors import error_response
from versatile_diffusion.serving.api.service import SEED_HEADER
from versatile_diffusion.serving.limits import Limits

NAME = "versatile"
HERE = "local"
"""In place of the address of a cluster: one on this machine, for as long as the service runs."""
MEGABYTE = 1 << 20
REPLICA = "x-versatile-replica"
"""Header that names the process that answered."""
TRIES = 2


@dataclass(frozen=True)
class Asked:
    """A request on its way from the front to a replica."""

    method: str
    path: str
    query: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes
    client: str


@dataclass(frozen=True)
class Head:
    """How an answer begins; `body` is all of it, unless it comes in parts."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""
    more: bool = False


@dataclass(frozen=True)
class ClusterPlan:
    """What is served, and on how much.

    Args:
        model: name, folder or hub id; every node must be able to read it.
        limits: of each replica.
        app: options of `serving.app`.
        replicas: that there are at least; most: at most, by the number of requests that wait or run.
        gpus, cpus: of each.
    """

    model: str
    limits: Limits = field(default_factory=Limits)
    app: Mapping[str, Any] = field(default_factory=dict)
    replicas: int = 1
    most: int = 1
    gpus: float = 0
    cpus: float = 1

    def __post_init__(self) -> None:
        if not 1 <= self.replicas <= self.most:
            raise ValueError(
                f"{self.replicas} to {self.most} replicas are asked for; it must be 1 or more, then as many"
            )


class Replica:
    """One process with the model and its engine."""

    def __init__(self, model: str, limits: Mapping[str, Any], options: Mapping[str, Any], gpu: bool):
        from versatile_diffusion import VersatileDiffusionPipeline
        from versatile_diffusion.serving.api.app import app

        pipe = VersatileDiffusionPipeline.from_pretrained(model)
        pipe.set_progress_bar_config(disable=True)
        self.api = app(pipe.to("cuda") if gpu else pipe, Limits(**limits), **{"name": model, **options})

    def check_health(self) -> None:
        """Raises where the engine's worker has ended, so that the replica is replaced."""
        if not self.api.state.service.engine.alive:
            raise RuntimeError("the engine has ended")

    async def answer(self, asked: Asked) -> AsyncIterator[Head | bytes]:
        """The head of the answer, and its parts where it is a stream. Cancelling it cancels the work."""
        messages: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        given: list[dict[str, Any]] = [{"type": "http.request", "body": asked.body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            return given.pop() if given else await asyncio.Event().wait()  # type: ignore[return-value]

        task = asyncio.create_task(self.api(_scope(asked), receive, messages.put))  # type: ignore[arg-type]
        task.add_done_callback(lambda _: messages.put_nowait(None))
        try:
            start = await messages.get()
            if start is None:
                task.result()
                return
            headers = [*start["headers"], (REPLICA.encode(), str(os.getpid()).encode())]
            events = any(name == b"content-type" and b"event-stream" in value for name, value in headers)
            head, body = Head(start["status"], headers, more=events), b""
            if events:
                yield head
            while (message := await messages.get()) is not None:
                if events:
                    yield message.get("body", b"")
                body += b"" if events else message.get("body", b"")
            if not events:
                yield Head(head.status, headers, body)
        finally:
            task.cancel()


def _scope(asked: Asked) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http",
        "method": asked.method,
        "path": asked.path,
        "raw_path": asked.path.encode(),
        "root_path": "",
        "query_string": asked.query,
        "headers": asked.headers,
        "client": (asked.client, 0),
        "server": None,
    }


class Front:
    """Hands requests to replicas, and to another one where a replica dies.

    Args:
        replicas: handle of the replicas.
        most: bytes of a body.
    """

    def __init__(self, replicas: Any, most: int):
        self.replicas, self.most = replicas.options(stream=True), most

    async def __call__(self, request: Request) -> Response:
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > self.most:
                return error_response(413, f"the body has more than {self.most} bytes, which is all that is allowed")
        headers = [row for row in request.scope["headers"] if row[0] != SEED_HEADER.encode()]
        headers.append((SEED_HEADER.encode(), str(random.SystemRandom().randrange(DRAWN)).encode()))
        client = request.client.host if request.client else ""
        asked = Asked(request.method, request.url.path, request.scope["query_string"], headers, bytes(body), client)
        for _ in range(TRIES):
            parts = self.replicas.answer.remote(asked)
            try:
                head = await anext(aiter(parts))
            except RayActorError:
                continue
            return _response(head, parts)
        return error_response(503, "the replicas that had this request died; try again", {"Retry-After": "5"})


def _response(head: Head, parts: Any) -> Response:
    response = StreamingResponse(parts, head.status) if head.more else Response(head.body, head.status)
    response.raw_headers = head.headers
    return response


def application(plan: ClusterPlan) -> serve.Application:
    """The front and its replicas, for `ray.serve.run`."""
    waiting = plan.limits.waiting + plan.limits.places
    scale: dict[str, Any] = {"num_replicas": plan.replicas}
    if plan.most > plan.replicas:
        wanted = {"min_replicas": plan.replicas, "max_replicas": plan.most}
        scale = {"autoscaling_config": {**wanted, "target_ongoing_requests": plan.limits.places}}
    deployment: Any = serve.deployment
    replicas = deployment(
        Replica,
        name="Replica",
        max_ongoing_requests=waiting,
        graceful_shutdown_timeout_s=plan.limits.grace,
        ray_actor_options={"num_cpus": plan.cpus, "num_gpus": plan.gpus},
        **scale,
    ).bind(plan.model, asdict(plan.limits), dict(plan.app), plan.gpus > 0)
    front = deployment(
        Front,
        name="Front",
        max_ongoing_requests=waiting * plan.most,
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_timeout_s=plan.limits.grace,
    )
    return front.bind(replicas, plan.limits.megabytes * MEGABYTE)  # type: ignore[no-any-return]


def start(plan: ClusterPlan, address: str, host: str, port: int) -> None:
    """Serves a plan on a cluster; one that is served there already is updated, replica by replica.

    Args:
        plan: what is served.
        address: of the cluster, or `local`.
        host, port: where each node listens.
    """
    own = {"include_dashboard": False, "_system_config": {"worker_niceness": 0}}  # else whatever runs here goes first
    here: dict[str, Any] = own if address == HERE else {}
    ray.init(address, ignore_reinit_error=True, log_to_driver=False, **here)
    serve.start(http_options={"host": host, "port": port})
    serve.run(application(plan), name=NAME, route_prefix="/")


def stop() -> None:
    """Ends what is served; running requests have their grace."""
    serve.delete(NAME)
    serve.shutdown()
    ray.shutdown()
