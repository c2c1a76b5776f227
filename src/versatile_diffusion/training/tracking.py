"""What a run writes down: a line of JSON per entry, and the same for TensorBoard and Weights & Biases."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch

from versatile_diffusion.data.disk import write_whole


class Tracker:
    """Log of the run in `out`. Lines after `step` (of a run that was killed) are taken back first.

    TensorBoard gets the same where it is installed; Weights & Biases if asked for with `wandb`.

    Raises:
        ValueError: wandb is asked for, and not installed.
    """

    def __init__(self, out: Path, step: int, wandb: bool = False):
        self.out = out
        path = out / "log.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        kept = [line for line in lines if _step_of(line) <= step]
        write_whole(path, lambda new: new.write_text("".join(f"{line}\n" for line in kept)))
        self.file = path.open("a")
        self.board = _board(out / "tensorboard", step)
        self.wandb = _wandb(out) if wandb else None

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        if self.board is not None:
            self.board.close()
        if self.wandb is not None:
            self.wandb.finish()

    def log(self, step: int, values: dict[str, float], **extra: float) -> None:
        """One entry; `extra` are numbers that differ between equal runs, such as seconds."""
        rounded = {name: round(value, 3) for name, value in extra.items()}
        self.file.write(json.dumps({"step": step, **values, **rounded}) + "\n")
        self.file.flush()
        if self.board is not None:
            for name, value in {**values, **extra}.items():
                self.board.add_scalar(name, value, step)
        if self.wandb is not None:
            self.wandb.log({**values, **extra}, step=step)

    def summary(self, metrics: dict[str, float], step: int, elapsed: float) -> None:
        """`metrics.json`: what the finished run reached."""
        content = {"steps": step, "seconds": round(elapsed, 1), "metrics": metrics}
        (self.out / "metrics.json").write_text(json.dumps(content, indent=2) + "\n")


def memory(device: torch.device) -> float:
    """The most memory taken so far in GiB: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        import resource
    except ImportError:  # not on this system
        return 0.0
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def _step_of(line: str) -> float:
    """The step of a line; a line cut short by a kill counts as after everything."""
    try:
        return json.loads(line)["step"]
    except ValueError:
        return float("inf")


def _board(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(folder, purge_step=step + 1)


def _wandb(out: Path) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise ValueError("wandb is asked for and not installed: pip install wandb, or leave it out") from error
    mode: Any = os.environ.get("WANDB_MODE", "offline")
    return wandb.init(project="versatile-diffusion", name=out.name, dir=out, mode=mode)
