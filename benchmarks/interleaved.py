"""Timing things against each other: in turn (A B A B) in one process, medians, and what machine it was."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import torch

from versatile_diffusion.version import __version__


@torch.no_grad()
def in_turn(cases: Mapping[str, Callable[[], Any]], rounds: int = 3, warm: int = 1) -> dict[str, float]:
    """Median seconds of each case; other work on the machine disturbs all of them alike.

    Args:
        cases: what to call, by name.
        rounds: how often each is timed.
        warm: how often each is called before.
    """
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(warm + rounds):
        for name, call in cases.items():
            began = now()
            call()
            if number >= warm:
                seconds[name].append(now() - began)
    return {name: median(found) for name, found in seconds.items()}


def now() -> float:
    """Seconds, once a GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def machine() -> dict[str, Any]:
    """What a number was measured on and with."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text("utf-8").splitlines() if cpuinfo.is_file() else []
    model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": model or platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": cores,
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "versions": {name: version(name) for name in ("torch", "diffusers", "transformers")}
        | {"versatile-diffusion": __version__, "python": platform.python_version()},
    }
