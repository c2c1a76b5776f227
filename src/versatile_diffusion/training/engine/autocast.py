"""bfloat16 mixed precision of a training step."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from versatile_diffusion.pipeline.precision import cpu_multiplies_bfloat16

SLOW_ON_CPU: frozenset[Any] = frozenset({F.scaled_dot_product_attention, F.group_norm})
"""Functions that a CPU runs faster in float32: in bfloat16 the backward pass of attention takes seven times as long,
and group norm five times (torch 2.13; docs/log.md)."""


def saves_time(device: torch.device) -> bool:
    """Whether a diffuser trains faster in bfloat16 on a device: a GPU, or a CPU with instructions for it."""
    return device.type == "cuda" or (device.type == "cpu" and cpu_multiplies_bfloat16())


@contextmanager
def autocast(device: torch.device, enabled: bool) -> Iterator[None]:
    """Compute products and convolutions in bfloat16, and on a CPU the functions of `SLOW_ON_CPU` in float32."""
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled):
        if enabled and device.type == "cpu":
            with _InFloat32(SLOW_ON_CPU):
                yield
        else:
            yield


class _InFloat32(TorchFunctionMode):
    """Runs the given functions in float32."""

    def __init__(self, functions: Collection[Callable[..., Any]]):
        super().__init__()
        self.functions = functions

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func not in self.functions:
            return func(*args, **kwargs)
        with torch.autocast("cpu", enabled=False):
            return func(*map(_wide, args), **{name: _wide(value) for name, value in kwargs.items()})


def _wide(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype == torch.bfloat16 else value
