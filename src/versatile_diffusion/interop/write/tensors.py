"""Streaming writers, which convert a model on disk without holding it in memory."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from versatile_diffusion.interop.read.tensors import SAFETENSORS_DTYPES

_ALIGNMENT = 8


def write_safetensors(file: Path, state: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> None:
    """Write a safetensors file, reading, converting and writing tensors one by one.

    Args:
        state: tensors by name; shared memory is written once per name.
        dtype: floating-point dtype on disk; None keeps each dtype.
    """
    codes = {kind: code for code, kind in SAFETENSORS_DTYPES.items()}
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in state.items():
        kind = _kind(tensor, dtype)
        begin, end = end, end + tensor.numel() * kind.itemsize
        header[name] = {"dtype": codes[kind], "shape": list(tensor.shape), "data_offsets": [begin, end]}
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % _ALIGNMENT)
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as opened:
        opened.write(len(encoded).to_bytes(8, "little") + encoded)
        for tensor in state.values():
            values = tensor.detach().to("cpu", _kind(tensor, dtype)).contiguous()
            opened.write(values.reshape(-1).view(torch.uint8).numpy().data)


def write_pickle(file: Path, state: Mapping[str, Tensor], dtype: torch.dtype | None = None) -> None:
    """Write a state dict with torch.save, plain tensors only; converted tensors are held in memory."""
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({name: t.detach().to("cpu", _kind(t, dtype)).contiguous() for name, t in state.items()}, file)


def _kind(tensor: Tensor, dtype: torch.dtype | None) -> torch.dtype:
    return dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
