"""Loading a model for a command."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from versatile_diffusion.cli.io.console import working

if TYPE_CHECKING:
    from versatile_diffusion import VersatileDiffusionPipeline


def load(model: str, device: str | None = None, dtype: Any = "auto") -> VersatileDiffusionPipeline:
    """Load a pipeline by name, folder or hub id; progress bars only on a terminal.

    Args:
        model: see `VersatileDiffusionPipeline.from_pretrained`.
        device: device to run on; the GPU if available by default.
        dtype: see `VersatileDiffusionPipeline.from_pretrained`.

    Raises:
        ValueError: no such model or device, or damaged files.
    """
    with working(f"loading {model}"):
        from versatile_diffusion import VersatileDiffusionPipeline

        place = find_device(device)
        without_bars()
        pipe = VersatileDiffusionPipeline.from_pretrained(model, dtype, device=None if place == "cpu" else place)
    pipe.set_progress_bar_config(leave=False, disable=not sys.stderr.isatty())
    return pipe


def without_bars() -> None:
    """Hide the loading progress bars of libraries."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()


def devices() -> dict[str, str]:
    """Return the available devices with a description."""
    import torch

    found = {f"cuda:{k}": torch.cuda.get_device_name(k) for k in range(torch.cuda.device_count())}
    if torch.backends.mps.is_available():
        found["mps"] = "Apple GPU"
    return found | {"cpu": f"{torch.get_num_threads()} threads"}


def find_device(name: str | None) -> str:
    """Return the device of that name; by default the first GPU, else the CPU."""
    names = list(devices())
    found = names[0] if name in (None, "gpu") else {"cuda": "cuda:0"}.get(str(name), str(name))
    if name == "gpu" and found == "cpu":
        raise ValueError(f"--device is gpu, and torch finds none here ({_why_absent('cuda')}); allowed: cpu")
    if found in names:
        return found
    kind = found.partition(":")[0]
    if kind in ("cuda", "mps") and not any(one.startswith(kind) for one in names):
        raise ValueError(f"--device is {name}, and {_why_absent(kind)}; allowed: {', '.join(names)}")
    from versatile_diffusion.choices import unknown

    raise ValueError(unknown("device", name, [*names, "gpu"]))


def _why_absent(kind: str) -> str:
    """Why there is no device of a kind."""
    import torch

    built = torch.backends.mps.is_built() if kind == "mps" else torch.version.cuda or torch.version.hip
    if not built:
        return f"this build of torch has no {kind.upper()} (torch {torch.__version__})"
    return f"torch {torch.__version__} finds no {kind.upper()} device"
