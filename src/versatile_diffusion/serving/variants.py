"""A model with an adapter, beside the model itself: the same weights in memory, with layers of its own around them."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

from torch import nn

if TYPE_CHECKING:
    from versatile_diffusion import VersatileDiffusionPipeline


def with_lora(pipe: VersatileDiffusionPipeline, lora: str) -> VersatileDiffusionPipeline:
    """A pipeline with an adapter. It may compute beside the other one: they share tensors, and no module, tokenizer or
    state.

    Args:
        pipe: the model, without adapters.
        lora: see `load_lora_weights`.

    Raises:
        ValueError: there is no such adapter, or it is of another model.
    """
    pipe.load_now()
    options = {name: pipe.config[name] for name in ("styles", "defaults", "vocabulary")}
    parts = [_beside(pipe.unet), _beside(pipe.bank), copy.deepcopy(pipe.scheduler)]
    made = type(pipe)(*parts, **options)  # type: ignore[arg-type]
    made.model_name = pipe.model_name
    made.load_lora_weights(lora)
    made.set_progress_bar_config(disable=True)
    return made


def _beside(module: nn.Module) -> nn.Module:
    """A copy of a module with the same tensors."""
    tensors = (*module.parameters(), *module.buffers())
    return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})
