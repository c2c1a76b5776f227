"""Loading a model for a command."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from versatile_diffusion.cli.console import working

if TYPE_CHECKING:
    from versatile_diffusion import VersatileDiffusionPipeline


def load(model: str, device: str | None = None) -> VersatileDiffusionPipeline:
    """The pipeline of that name, folder or hub id, with progress bars only where someone watches.

    Args:
        model: see `VersatileDiffusionPipeline.from_pretrained`.
        device: where it computes; the GPU where there is one, if left out.

    Raises:
        ValueError: there is none, its files are damaged, or there is no such device.
    """
    with working(f"loading {model}"):
        from diffusers.utils import logging as diffusers_logging
        from safetensors import SafetensorError
        from transformers.utils import logging as transformers_logging

        from versatile_diffusion import VersatileDiffusionPipeline

        place = found_device(device)
        diffusers_logging.disable_progress_bar()
        transformers_logging.disable_progress_bar()
        try:
            pipe = VersatileDiffusionPipeline.from_pretrained(model)
        except SafetensorError as error:
            raise ValueError(f"the weights of {model} are damaged ({error}); fetch or save them again") from error
    pipe.set_progress_bar_config(leave=False, disable=not sys.stderr.isatty())
    return pipe if place == "cpu" else pipe.to(place)


def devices() -> dict[str, str]:
    """Devices of this machine that a model can be on, with what they are."""
    import torch

    found = {f"cuda:{k}": torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())}
    if torch.backends.mps.is_available():
        found["mps"] = "Apple GPU"
    return found | {"cpu": f"{torch.get_num_threads()} threads"}


def found_device(name: str | None) -> str:
    """The device of that name; without one the first GPU, else the CPU."""
    names = list(devices())
    found = names[0] if name is None else {"cuda": "cuda:0"}.get(name, name)
    if found not in names:
        from versatile_diffusion.choices import unknown

        raise ValueError(unknown("device", name, names))
    return found
