"""Versatile Diffusion: text to image, image to text, and variations of both, in one diffusion model."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from versatile_diffusion.version import __version__

if TYPE_CHECKING:
    from diffusers import ModelMixin, SchedulerMixin

    from versatile_diffusion.diffuser.context import Context
    from versatile_diffusion.diffuser.unet import MultiFlowUNet
    from versatile_diffusion.flow import Condition, Flow
    from versatile_diffusion.modalities.bank import ModalityBank
    from versatile_diffusion.sampling.embeddings import Embeddings, load_embeddings, save_embeddings
    from versatile_diffusion.sampling.output import Output
    from versatile_diffusion.sampling.pipeline import VersatileDiffusionPipeline
    from versatile_diffusion.sampling.schedulers import OfficialDDIMScheduler

# Imported when first asked for, so that the command line starts quickly. diffusers looks up the classes named in a
# model's files here, and their base classes beside them.
_HOMES = {
    "Condition": "versatile_diffusion.flow",
    "Context": "versatile_diffusion.diffuser.context",
    "Embeddings": "versatile_diffusion.sampling.embeddings",
    "Flow": "versatile_diffusion.flow",
    "ModalityBank": "versatile_diffusion.modalities.bank",
    "ModelMixin": "diffusers",
    "MultiFlowUNet": "versatile_diffusion.diffuser.unet",
    "OfficialDDIMScheduler": "versatile_diffusion.sampling.schedulers",
    "Output": "versatile_diffusion.sampling.output",
    "SchedulerMixin": "diffusers",
    "VersatileDiffusionPipeline": "versatile_diffusion.sampling.pipeline",
    "load_embeddings": "versatile_diffusion.sampling.embeddings",
    "save_embeddings": "versatile_diffusion.sampling.embeddings",
}

__all__ = [
    "Condition",
    "Context",
    "Embeddings",
    "Flow",
    "ModalityBank",
    "ModelMixin",
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
