"""Records of values and of model weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from versatile_diffusion.layers.on_use import unread


def record_of(given: Any, raw: Any, numbers: Callable[[Any], Any] = np.asarray) -> Any:
    """Return the record of a value: text as is, anything else as a hash of its content.

    Args:
        given: value as given by the user; if a path, the record names the file.
        raw: the raw value.
        numbers: returns the array to hash, see `Modality.numbers`.
    """
    if raw is None or isinstance(raw, str):
        return raw
    array = raw.detach().cpu().float().numpy() if isinstance(raw, Tensor) else numbers(raw)
    digest = hashlib.sha256(repr((array.shape, str(array.dtype))).encode() + np.ascontiguousarray(array).tobytes())
    file = {"file": str(given)} if isinstance(given, str | PathLike) else {}
    return {"sha256": digest.hexdigest(), "shape": list(array.shape)} | file


def fingerprint(*modules: nn.Module, precision: torch.dtype = torch.float32) -> str:
    """Return a short hash that identifies weights: computed from a few values of every parameter, rounded to
    `precision`."""
    digest = hashlib.sha256()
    for module in modules:
        waiting = unread(module)
        found = (part for name, tensor in module.state_dict().items() for part in plain_parts(name, tensor))
        for name, tensor in found:
            flat = (waiting[name]() if name in waiting else tensor).flatten()
            few = flat[:: max(1, len(flat) // 16)][:16].to(tensor.dtype).to(precision).float().cpu().numpy()
            digest.update(name.encode() + repr(tuple(tensor.shape)).encode() + few.tobytes())
    return digest.hexdigest()[:16]


def plain_parts(name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The tensor, or the plain tensors inside a quantised one."""
    if not is_traceable_wrapper_subclass(tensor):
        yield name, tensor
        return
    for inner in tensor.__tensor_flatten__()[0]:
        yield from plain_parts(f"{name}.{inner}", getattr(tensor, inner))


class Fingerprints:
    """Cache of module fingerprints; recomputed only when weights change."""

    def __init__(self) -> None:
        self._of: tuple[list[Any], str] = ([], "")

    def of(self, *modules: nn.Module) -> str:
        """Return `fingerprint` of the modules."""
        held = (t for module in modules for t in (*module.parameters(), *module.buffers()) if t.numel())
        tensors = [part for t in held for _, part in plain_parts("", t)]
        if any(t.is_inference() or t.is_meta for t in tensors):  # their changes are not tracked, or they are not loaded
            return fingerprint(*modules)
        state: list[Any] = [(id(t), t.data_ptr(), t._version) for t in tensors]
        # writes to `.data` change no version, so compare the first value of each tensor
        state += torch.stack([t.detach()[(0,) * t.ndim].float() for t in tensors]).tolist()
        if self._of[0] != state:
            self._of = (state, fingerprint(*modules))
        return self._of[1]
