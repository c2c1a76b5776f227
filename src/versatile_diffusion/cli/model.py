"""Loading a model for a command."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from versatile_diffusion.cli.console import working

if TYPE_CHECKING:
    from versatile_diffusion import VersatileDiffusionPipeline


def load(model: str) -> VersatileDiffusionPipeline:
    """The pipeline of that name, folder or hub id, with progress bars only where someone watches.

    Raises:
        ValueError: there is none, or its files are damaged.
    """
    with working(f"loading {model}"):
        from diffusers.utils import logging as diffusers_logging
        from safetensors import SafetensorError
        from transformers.utils import logging as transformers_logging

        from versatile_diffusion import VersatileDiffusionPipeline

        diffusers_logging.disable_progress_bar()
        transformers_logging.disable_progress_bar()
        try:
            pipe = VersatileDiffusionPipeline.from_pretrained(model)
        except SafetensorError as error:
            raise ValueError(f"the weights of {model} are damaged ({error}); fetch or save them again") from error
    pipe.set_progress_bar_config(leave=False, disable=not sys.stderr.isatty())
    return pipe
