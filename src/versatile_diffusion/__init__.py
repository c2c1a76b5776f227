"""Versatile Diffusion: text to image, image to text, and variations of both, in one diffusion model."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from versatile_diffusion.on_demand import defer
from versatile_diffusion.version import __version__

if TYPE_CHECKING:
    from diffusers import ModelMixin, SchedulerMixin

    from versatile_diffusion.diffuser.context import Context
    from versatile_diffusion.diffuser.unet import MultiFlowUNet
    from versatile_diffusion.flow import Condition, Flow
    from versatile_diffusion.modalities.bank import ModalityBank
    from versatile_diffusion.pipeline.output import Output
    from versatile_diffusion.pipeline.pipeline import MultiFlowPipeline, VersatileDiffusionPipeline
    from versatile_diffusion.records.embeddings import Embeddings, load_embeddings, save_embeddings
    from versatile_diffusion.sampling.schedulers import OfficialDDIMScheduler

defer()

# Imported on first access, so that the command line starts fast. diffusers looks up the classes named in a model's
# files here, with their base classes.
_HOMES = {
    "Condition": "versatile_diffusion.flow",
    "Context": "versatile_diffusion.diffuser.context",
    "Embeddings": "versatile_diffusion.records.embeddings",
    "Flow": "versatile_diffusion.flow",
    "ModalityBank": "versatile_diffusion.modalities.bank",
    "ModelMixin": "diffusers",
    "MultiFlowPipeline": "versatile_diffusion.pipeline.pipeline",
    "MultiFlowUNet": "versatile_diffusion.diffuser.unet",
    "OfficialDDIMScheduler": "versatile_diffusion.sampling.schedulers",
    "Output": "versatile_diffusion.pipeline.output",
    "SchedulerMixin": "diffusers",
    "VersatileDiffusionPipeline": "versatile_diffusion.pipeline.pipeline",
    "load_embeddings": "versatile_diffusion.records.embeddings",
    "save_embeddings": "versatile_diffusion.records.embeddings",
}

__all__ = [
    "Condition",
    "Context",
    "Embeddings",
    "Flow",
    "ModalityBank",
    "ModelMixin",
    "MultiFlowPipeline",
    "MultiFlowUNet",
    "OfficialDDIMScheduler",
    "Output",
    "SchedulerMixin",
    "VersatileDiffusionPipeline",
    "__version__",
    "load_embeddings",
    "save_embeddings",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
