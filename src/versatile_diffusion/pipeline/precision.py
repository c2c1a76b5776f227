"""The dtype of a model's weights: as it is named, as a record has it, and the one that suits a device (`"auto"`)."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

import torch

from versatile_diffusion.printable import shown

AUTO = "auto"
LARGE = 200_000_000
"""Bytes of a diffuser's weights in its files, above which half of them in memory is worth another rounding."""
GAIN = 1.3
"""How many times as fast a product must be in bfloat16 as in float32 to choose it."""
ALLOWED = "torch.float32, torch.float16, torch.bfloat16 or 'auto'"


@dataclass(frozen=True)
class Precision:
    """What a model computes in.

    Args:
        unet: dtype of the diffuser.
        bank: dtype of codecs and context encoders.
    """

    unet: torch.dtype
    bank: torch.dtype

    @classmethod
    def of(cls, given: Any, suits: Callable[[], torch.dtype]) -> Precision:
        """From a dtype, its name, `"auto"`, or a mapping of `unet` and `bank` to one each.

        Args:
            given: as the user says it.
            suits: finds the diffuser's for `"auto"`; codecs and encoders have float32 then, since they take little of
                the time.

        Raises:
            ValueError: it is no floating dtype.
        """
        if given == AUTO:
            return cls(suits(), torch.float32)
        if not isinstance(given, Mapping):
            return cls(dtype_of(given), dtype_of(given))
        if given.keys() != {"unet", "bank"}:
            raise ValueError(f"dtype is {shown(given)}; as a mapping it must have one for unet and one for bank")
        return cls(dtype_of(given["unet"]), dtype_of(given["bank"]))

    def record(self) -> str | dict[str, str]:
        """Plain JSON that `of` understands."""
        unet, bank = (str(one).removeprefix("torch.") for one in (self.unet, self.bank))
        return unet if unet == bank else {"unet": unet, "bank": bank}


def dtype_of(given: Any) -> torch.dtype:
    """A dtype from itself or its name; ValueError if it is not one that a model can have."""
    found = getattr(torch, given, given) if isinstance(given, str) else given
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ValueError(f"dtype is {shown(given)}; it must be {ALLOWED}")
    return found


def suitable_dtype(device: str | torch.device, size: float = float("inf")) -> torch.dtype:
    """The dtype in which a diffuser whose weights have `size` bytes runs best on a device.

    A small one stays in float32: it gains little, and rounds less.
    """
    kind = torch.device(device).type
    if size < LARGE:
        return torch.float32
    if kind == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else torch.float16
    if kind == "mps":
        return torch.float16
    return torch.bfloat16 if kind == "cpu" and cpu_multiplies_bfloat16() and bfloat16_gain() >= GAIN else torch.float32


@cache
def cpu_multiplies_bfloat16() -> bool:
    """Whether the CPU has instructions for products of bfloat16: AVX512_BF16, AMX, or BF16 of Arm."""
    if platform.machine().lower() in ("aarch64", "arm64"):
        cpu = Path("/proc/cpuinfo")
        return cpu.is_file() and "bf16" in cpu.read_text("utf-8", errors="replace").split()
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(probe() for name in probes if (probe := getattr(torch.cpu, name, None)) is not None)


@cache
def bfloat16_gain(side: int = 768, times: int = 5) -> float:
    """How many times as fast a product is in bfloat16 as in float32 on this CPU: medians of a few, taken in turn."""
    pairs = [(torch.ones(side, side, dtype=dtype),) * 2 for dtype in (torch.float32, torch.bfloat16)]
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(times + 1):
        for (left, right), took in zip(pairs, seconds, strict=True):
            began = time.perf_counter()
            torch.mm(left, right)
            took.append(time.perf_counter() - began)
    slow, fast = (median(took[1:]) for took in seconds)  # the first sets the kernel up
    return slow / fast
