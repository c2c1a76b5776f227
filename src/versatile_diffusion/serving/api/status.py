"""What a service says of itself: its model, whether it lives and is ready, and its figures."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from versatile_diffusion.serving.api.service import Service, TheService

router = APIRouter()


def _model(service: Service, name: str | None = None) -> dict[str, Any]:
    """What is said of a model. Args: name: of one beside it, which has the same streams and weights of its own."""
    pipe = service.engine.pipe
    own = {"fingerprint": pipe.fingerprint()} if name is None else {}
    return {
        "id": name or service.name,
        "object": "model",
        "created": service.created,
        "owned_by": "versatile-diffusion",
        "tasks": [task.name for task in pipe.tasks()],
        "styles": list(pipe.config.styles),
        **own,
    }


@router.get("/v1/models", tags=["model"], summary="The models of this service")
def models(service: TheService) -> Any:
    """With their tasks and styles."""
    return {"object": "list", "data": [_model(service), *(_model(service, name) for name in service.others)]}


@router.get("/v1/models/{model:path}", tags=["model"], summary="A model")
def model(service: TheService, model: str) -> Any:
    """With its tasks and styles."""
    service.check_model(model)
    return _model(service)


@router.get("/health", tags=["service"], summary="Whether the process works")
def health(service: TheService) -> Any:
    """503 where its worker has ended before its time."""
    alive = service.engine.alive
    return JSONResponse({"status": "ok" if alive else "failed"}, 200 if alive else 503)


@router.get("/ready", tags=["service"], summary="Whether requests are taken")
def ready(service: TheService) -> Any:
    """503 while the service is stopping."""
    ready = service.engine.ready
    return JSONResponse({"status": "ready" if ready else "stopping"}, 200 if ready else 503)


@router.get("/metrics", tags=["service"], summary="Figures for Prometheus")
def metrics(service: TheService) -> Response:
    """Queue length, batch sizes, seconds of passes, and results by status."""
    return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)
