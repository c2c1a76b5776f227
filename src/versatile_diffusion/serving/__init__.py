"""Many requests, one model: the engine that shares passes among them, and the HTTP service on top of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from versatile_diffusion.serving.api.app import app as app
    from versatile_diffusion.serving.engine import Engine as Engine
    from versatile_diffusion.serving.limits import Limits as Limits

_HOMES = {"app": "api.app", "Engine": "engine", "Limits": "limits"}
__all__ = ["Engine", "Limits", "app"]


def __getattr__(name: str) -> Any:
    """What is asked for, imported then: the engine needs no extra, the HTTP service needs `serve`."""
    from importlib import import_module

    if name not in _HOMES:
        raise AttributeError(f"module {__name__} has no attribute {name}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
