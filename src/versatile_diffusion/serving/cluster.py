"""The service on Ray: replicas of the app, each with the model and an engine, behind a front that retries.

The front gives a request that has no seed one, so that what a replica had begun when it died is the same when another
does it again. It is tried again once, and only as long as nothing of the answer has been sent.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import ray
from ray import serve
from ray.exceptions import RayActorError
from ray.serve.exceptions import RayServeException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from versatile_diffusion.printable import shown
from versatile_diffusion.sampling.seeds import DRAWN
from versatile_diffusion.serving.api.errors import error_response
from versatile_diffusion.serving.api.gate import RefusedError, check_depth
from versatile_diffusion.serving.api.service import SEED_HEADER
from versatile_diffusion.serving.limits import Limits

if TYPE_CHECKING:
    from fastapi import FastAPI

    from versatile_diffusion import VersatileDiffusionPipeline

NAME = "versatile"
HERE = "local"
"""In place of the address of a cluster: one on this machine, for as long as the service runs."""
MEGABYTE = 1 << 20
REPLICA = "x-versatile-replica"
"""Header that names the process that answered."""
TRIES = 2
MOST_LORAS = 32
"""Adapters of a plan."""
UPSCALE = 10.0
"""Seconds for which requests must wait before a replica is added."""
PATIENCE: Mapping[str, str] = {
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120",
    "RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S": "60",
}
"""Seconds that Ray's own processes have on a machine of one's own: a busy one takes longer to start them than the five
after which Ray ends them."""
ONE_MODEL = "/v1/models/"
NAMED_IN_FORM = re.compile(rb'name="model"\r\n(?:[^\r\n]+\r\n)*\r\n([^\r\n]{1,500})\r\n')
"""The field of a form that names a model."""


@dataclass(frozen=True)
class Asked:
    """A request on its way from the front to a replica."""

    method: str
    path: str
    query: bytes
    headers: list[tuple[bytes, bytes]]
    body: bytes
    client: str

    @property
    def model(self) -> str:
        """The model that it names; empty if it names none, or is no request that could."""
        if self.path.startswith(ONE_MODEL):
            return unquote(self.path.removeprefix(ONE_MODEL))
        kind = next((value.decode("latin-1") for name, value in self.headers if name == b"content-type"), "")
        if "json" in kind:
            return _named_in_json(self.body)
        found = NAMED_IN_FORM.search(self.body)
        return found[1].decode("utf-8", "replace").strip() if found else ""


def _named_in_json(body: bytes) -> str:
    if b'"model"' not in body:
        return ""
    try:
        check_depth(body)
        name = json.loads(body).get("model")
    except (ValueError, AttributeError, RefusedError):  # the replica says what is wrong with it
        return ""
    return name if isinstance(name, str) else ""


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
        name: id of the model for clients; by default `model`.
        loras: adapters by the id of the model with each.

    Raises:
        ValueError: replicas or adapters are too few or too many, or two models have the same id.
    """

    model: str
    limits: Limits = field(default_factory=Limits)
    app: Mapping[str, Any] = field(default_factory=dict)
    replicas: int = 1
    most: int = 1
    gpus: float = 0
    cpus: float = 1
    name: str = ""
    loras: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 1 <= self.replicas <= self.most:
            raise ValueError(
                f"{self.replicas} to {self.most} replicas are asked for; it must be 1 or more, then as many"
            )
        if len(self.loras) > MOST_LORAS:
            raise ValueError(f"{len(self.loras)} adapters are given; at most {MOST_LORAS} are allowed")
        if self.id in self.loras:
            raise ValueError(
                f"the model and an adapter are both called {shown(self.id)}; give one of them another name"
            )

    @property
    def id(self) -> str:
        return self.name or self.model


class Replica:
    """One process with the model and its engine; and, once a request names one, with an adapter and an engine for it,
    on the same weights."""

    def __init__(self, plan: ClusterPlan):
        from versatile_diffusion import VersatileDiffusionPipeline

        self.plan = plan
        pipe = VersatileDiffusionPipeline.from_pretrained(plan.model)
        pipe.set_progress_bar_config(disable=True)
        self.pipe = pipe.to("cuda") if plan.gpus else pipe
        self.apps = {plan.id: self._app(self.pipe, plan.id)}

    def _app(self, pipe: VersatileDiffusionPipeline, name: str) -> FastAPI:
        from versatile_diffusion.serving.api.app import app

        others = [other for other in (self.plan.id, *self.plan.loras) if other != name]
        return app(pipe, self.plan.limits, name=name, others=others, **self.plan.app)

    @serve.multiplexed(max_num_models_per_replica=MOST_LORAS)
    async def adapted(self, name: str) -> FastAPI:
        """The app of the model with an adapter. As many fit as a plan may have, so none is ever dropped."""

        def made() -> FastAPI:
            from versatile_diffusion.serving.variants import with_lora

            return self._app(with_lora(self.pipe, self.plan.loras[name]), name)

        self.apps[name] = await asyncio.to_thread(made)
        return self.apps[name]

    def check_health(self) -> None:
        """Raises where the worker of an engine has ended, so that the replica is replaced."""
        if not all(api.state.service.engine.alive for api in self.apps.values()):
            raise RuntimeError("an engine has ended")

    async def answer(self, asked: Asked) -> AsyncIterator[Head | bytes]:
        """The head of the answer, and its parts where it is a stream. Cancelling it cancels the work."""
        messages: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        given: list[dict[str, Any]] = [{"type": "http.request", "body": asked.body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            return given.pop() if given else await asyncio.Event().wait()  # type: ignore[return-value]

        name = serve.get_multiplexed_model_id()
        api = await self.adapted(name) if name else self.apps[self.plan.id]
        task = asyncio.create_task(api(_scope(asked), receive, messages.put))  # type: ignore[arg-type]
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
    """Hands requests to replicas, to one that has the adapter that they name if there is one; and to another one where
    a replica dies.

    Args:
        replicas: handle of the replicas.
        most: bytes of a body.
        loras: ids of the models that are adapters of the one that is served.
        deployed_by: name of who deployed it.
    """

    def __init__(self, replicas: Any, most: int, loras: Sequence[str] = (), deployed_by: str = ""):
        self.replicas, self.most, self.loras = replicas.options(stream=True), most, {*loras}
        self.deployed_by = deployed_by

    def owner(self) -> str:
        """Who deployed it."""
        return self.deployed_by

    def handle(self, asked: Asked) -> Any:
        """The replicas, as a request needs them."""
        name = asked.model if self.loras else ""
        return self.replicas.options(multiplexed_model_id=name) if name in self.loras else self.replicas

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
            parts = self.handle(asked).answer.remote(asked)
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


def application(plan: ClusterPlan, owner: str = "") -> serve.Application:
    """The fronts and the replicas, for `ray.serve.run`. There are two fronts, so that an update always leaves one."""
    waiting = plan.limits.waiting + plan.limits.places
    scale: dict[str, Any] = {"num_replicas": plan.replicas}
    if plan.most > plan.replicas:
        wanted: dict[str, Any] = {"min_replicas": plan.replicas, "max_replicas": plan.most}
        wanted |= {"target_ongoing_requests": plan.limits.places, "upscale_delay_s": UPSCALE}
        scale = {"autoscaling_config": wanted}
    deployment: Any = serve.deployment
    replicas = deployment(
        Replica,
        name="Replica",
        max_ongoing_requests=waiting,
        graceful_shutdown_timeout_s=plan.limits.grace,
        ray_actor_options={"num_cpus": plan.cpus, "num_gpus": plan.gpus},
        **scale,
    ).bind(plan)
    front = deployment(
        Front,
        name="Front",
        num_replicas=2,
        max_ongoing_requests=waiting * plan.most,
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_timeout_s=plan.limits.grace,
    )
    return front.bind(replicas, plan.limits.megabytes * MEGABYTE, list(plan.loras), owner)  # type: ignore[no-any-return]


def start(plan: ClusterPlan, address: str, host: str, port: int) -> str:
    """Serves a plan on a cluster; what is served there already is updated, replica by replica. Returns who it
    belongs to now, for `stop`.

    Args:
        plan: what is served.
        address: of the cluster, or `local`.
        host, port: where each node listens.
    """
    own = {"include_dashboard": False, "_system_config": {"worker_niceness": 0}}  # else whatever runs here goes first
    here: dict[str, Any] = own if address == HERE else {}
    for name, seconds in PATIENCE.items() if here else ():
        os.environ.setdefault(name, seconds)
    ray.init(address, ignore_reinit_error=True, log_to_driver=False, **here)
    serve.start(http_options={"host": host, "port": port})
    owner = secrets.token_hex(8)
    serve.run(application(plan, owner), name=NAME, route_prefix="/")
    return owner


def stop(owner: str | None = None) -> None:
    """Ends what is served, unless another process has updated it; running requests have their grace.

    Args:
        owner: of `start`; None ends it in any case.
    """
    if owner is None or owner == _owner():
        serve.delete(NAME)
        serve.shutdown()
    ray.shutdown()


def _owner() -> str | None:
    """Who deployed what is served; None if nothing is."""
    try:
        return serve.get_app_handle(NAME).owner.remote().result(timeout_s=60)
    except (RayServeException, TimeoutError):
        return None
