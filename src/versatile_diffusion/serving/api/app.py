"""The HTTP service as a FastAPI app: by itself, or mounted on another app."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool

from versatile_diffusion.serving.api import audio, chat, embeddings, images, own, status
from versatile_diffusion.serving.api.errors import handle_errors
from versatile_diffusion.serving.api.gate import Gate
from versatile_diffusion.serving.api.metrics import Metrics
from versatile_diffusion.serving.api.service import Service
from versatile_diffusion.serving.engine import Engine
from versatile_diffusion.serving.limits import Limits
from versatile_diffusion.version import __version__

if TYPE_CHECKING:
    from versatile_diffusion import VersatileDiffusionPipeline

MEGABYTE = 1 << 20
TITLE = "versatile-diffusion"
ABOUT = "Images from prompts and images, captions of images, and variations of both, by one diffusion model."


def app(
    pipe: VersatileDiffusionPipeline,
    limits: Limits | None = None,
    *,
    name: str | None = None,
    others: Sequence[str] = (),
    api_keys: Sequence[str] = (),
    allow_hosts: Sequence[str] = ("*",),
    log_prompts: bool = False,
) -> FastAPI:
    """The service of a model. `existing.mount("/versatile", app(pipe))` puts it on an app that there is.

    From now on its engine alone may compute with the pipeline. `app(pipe).state.service.engine.close()` ends it; where
    the app is served by itself, its end does.

    Args:
        pipe: the model.
        limits: see `Limits`.
        name: id of the model; by default the pipeline's.
        others: ids of models that are served beside it under the same address, for the list of models.
        api_keys: one of these must come with a request; none is needed where there are none.
        allow_hosts: host names that are answered to.
        log_prompts: whether the access log has prompts.
    """
    metrics, limits = Metrics(), limits or Limits()
    engine = Engine(pipe, limits, on_pass=metrics.passed)
    metrics.watch(engine)

    @asynccontextmanager
    async def lifespan(api: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(engine.close)

    api = FastAPI(title=TITLE, description=ABOUT, version=__version__, lifespan=lifespan, redoc_url=None)
    api.state.service = Service(engine, name or pipe.model_name, metrics, log_prompts, tuple(others))
    for part in (images, audio, chat, embeddings, own, status):
        api.include_router(part.router)
    handle_errors(api)
    api.add_middleware(Gate, metrics=metrics, keys=api_keys, hosts=allow_hosts, most=limits.megabytes * MEGABYTE)
    return api
