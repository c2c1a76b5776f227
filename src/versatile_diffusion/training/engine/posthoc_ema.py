"""Post-hoc EMA: the width of the average is chosen after training (Karras et al. 2024, arXiv 2312.02696, section 3).

A power-function average has the profile p(tau) ~ tau^gamma over the steps up to t: it grows with the run and forgets
the random initialisation. Its relative width is the profile's standard deviation divided by t. Averages of two widths
are stored several times during the run; any other width is approximated by a linear combination of them, whose
coefficients are a least-squares fit of the profiles.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from versatile_diffusion.files import write_whole

LARGEST = 0.28
"""Maximum relative width; the limit is 12^-1/2 = 0.289, the width of a uniform average."""


def gamma_of(width: float) -> float:
    """The exponent gamma of a relative `width`: sqrt(gamma + 1) / ((gamma + 2) sqrt(gamma + 3)).

    Raises:
        ValueError: the width is out of range.
    """
    if not 0 < width <= LARGEST:
        raise ValueError(f"width is {width}; it must be above 0 and at most {LARGEST}")
    roots = np.roots([1, 7, 16 - width**-2, 12 - width**-2])
    return float(roots[np.isreal(roots)].real.max())


def width_of(gamma: float) -> float:
    """The relative width of a profile."""
    return float((gamma + 1) ** 0.5 / ((gamma + 2) * (gamma + 3) ** 0.5))


class PowerAverages:
    """Power-function averages of a module's weights.

    Args:
        module: whose state dict is averaged; sharded or not.
        widths: relative width of each average.
    """

    def __init__(self, module: nn.Module, widths: Sequence[float] = (0.05, 0.10)):
        self.gammas = [gamma_of(width) for width in widths]
        self.widths = tuple(widths)
        self.averages = [{k: v.detach().clone() for k, v in module.state_dict().items()} for _ in widths]

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Add the weights after `step` steps (from 1)."""
        new = module.state_dict() if self.averages else {}
        for gamma, average in zip(self.gammas, self.averages, strict=True):
            kept = (1 - 1 / step) ** (gamma + 1)
            floating = [name for name, value in average.items() if value.is_floating_point()]
            torch._foreach_lerp_([average[n] for n in floating], [new[n] for n in floating], 1 - kept)
            for name in average.keys() - set(floating):
                average[name].copy_(new[name])

    def load(self, saved: Sequence[dict[str, Tensor]], spread: Callable[[Tensor, Tensor], Tensor]) -> None:
        """Load the `averages` of a checkpoint; `spread` takes this process's shard of a tensor.

        Raises:
            ValueError: the run was started with other averages; an average must see every step.
        """
        if len(saved) != len(self.averages):
            raise ValueError(
                f"posthoc has {len(self.averages)} widths, but the run was started with {len(saved)}: an average must "
                "see every step"
            )
        for average, values in zip(self.averages, saved, strict=True):
            for name, value in average.items():
                value.copy_(spread(values[name], value))


def write_snapshot(folder: Path, step: int, widths: Sequence[float], averages: Sequence[dict[str, Tensor]]) -> None:
    """Write a file with all averages after `step` steps."""
    folder.mkdir(exist_ok=True)
    by_width = zip(widths, averages, strict=True)
    tensors = {f"{width}/{name}": v.cpu().contiguous().clone() for width, a in by_width for name, v in a.items()}
    path = folder / f"{step:07d}.safetensors"
    write_whole(path, partial(save_file, tensors))


def reconstruct(folder: Path, width: float, step: int | None = None) -> dict[str, Tensor]:
    """The average of relative `width` after `step` steps (default: the last stored step), as a float32 state dict.

    Raises:
        ValueError: no snapshots, or none of that step.
    """
    named = (path for path in folder.glob("*.safetensors") if re.fullmatch("[0-9]+", path.stem))
    files = {int(path.stem): path for path in named if _whole(path)}
    wanted = max(files, default=0) if step is None else step
    if wanted not in files:
        there = ", ".join(map(str, sorted(files))) or "none"
        raise ValueError(f"{folder} has no snapshot of step {wanted}; available: {there}")
    stored: list[tuple[int, str]] = []
    for at, path in sorted(files.items()):
        with safe_open(path, "pt") as file:
            stored += [(at, told) for told in sorted({key.split("/")[0] for key in file.keys()})]  # noqa: SIM118
    stored = [(at, told) for at, told in stored if at <= wanted]
    weights = solve([(at, gamma_of(float(told))) for at, told in stored], (wanted, gamma_of(width)))
    result: dict[str, Tensor] = {}
    for (at, told), weight in zip(stored, weights, strict=True):
        with safe_open(files[at], "pt") as file:
            for key in (key for key in file.keys() if key.startswith(f"{told}/")):  # noqa: SIM118
                _add(result, key.removeprefix(f"{told}/"), file.get_tensor(key), weight)
    return {name: value.float() if value.is_floating_point() else value for name, value in result.items()}


def _whole(path: Path) -> bool:
    """Whether a snapshot can be read; a damaged one is reported."""
    try:
        with safe_open(path, "pt"):
            return True
    except (SafetensorError, OSError) as error:
        tqdm.write(f"{path} cannot be read ({error}): skipped", file=sys.stderr)
        return False


def _add(result: dict[str, Tensor], name: str, value: Tensor, weight: float) -> None:
    if not value.is_floating_point():
        result[name] = value  # counters: keep the last
    else:
        result[name] = result.get(name, 0) + weight * value.double()


def solve(stored: Sequence[tuple[int, float]], wanted: tuple[int, float]) -> Any:
    """Coefficients of the stored profiles, each (step, gamma), whose combination best fits the wanted profile."""
    products = np.array([[_product(a, b) for b in stored] for a in stored])
    return np.linalg.lstsq(products, np.array([_product(a, wanted) for a in stored]), rcond=1e-13)[0]


def _product(left: tuple[int, float], right: tuple[int, float]) -> float:
    """The integral of the product of two profiles, p(tau) = (gamma + 1) tau^gamma / t^(gamma + 1) for tau up to t."""
    (t, gamma), (u, delta) = sorted([left, right])  # t <= u
    return float((gamma + 1) * (delta + 1) / (gamma + delta + 1) * (t / u) ** delta / u)
