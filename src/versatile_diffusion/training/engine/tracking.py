"""The log of a run: one line of JSON per entry, also sent to TensorBoard and Weights & Biases."""

from __future__ import annotations

import json
import operator
import os
import sys
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from versatile_diffusion.files import write_whole

LOG = "log.jsonl"


class Tracker:
    """The log of the run in `out`. Entries after `step`, from a killed run, are removed first.

    The same is logged to TensorBoard if installed, and to Weights & Biases with `wandb`.

    Raises:
        ValueError: `wandb` without the package installed.
    """

    def __init__(self, out: Path, step: int, wandb: bool = False):
        self.out = out
        self.wandb = _wandb(out) if wandb else None
        path = out / LOG
        kept = [line for line in read_log(path) if line["step"] <= step]
        write_whole(path, lambda new: new.write_text("".join(json.dumps(line) + "\n" for line in kept)))
        self.known = [line for line in kept if line["step"] == step]
        self.file = path.open("a")
        self.board = _board(out / "tensorboard", step)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        if self.board is not None:
            self.board.close()
        if self.wandb is not None:
            self.wandb.finish()

    def log(self, step: int, values: dict[str, float], **extra: float) -> None:
        """Write an entry; `extra` are numbers that differ between equal runs, such as seconds. Entries that a finished
        run measures again when restarted are not repeated."""
        if {"step": step, **values} in self.known:
            return
        rounded = {name: round(value, 3) for name, value in extra.items()}
        self.file.write(json.dumps({"step": step, **values, **rounded}) + "\n")
        self.file.flush()
        if self.board is not None:
            for name, value in {**values, **extra}.items():
                self.board.add_scalar(name, value, step)
        if self.wandb is not None:
            self.wandb.log({**values, **extra}, step=step)

    def summary(self, metrics: dict[str, float], step: int, elapsed: float) -> None:
        """Write `metrics.json`, the results of a finished run."""
        content = {"steps": step, "seconds": round(elapsed, 1), "metrics": metrics}
        write_whole(self.out / "metrics.json", lambda new: new.write_text(json.dumps(content, indent=2) + "\n"))


def memory(device: torch.device) -> float:
    """Peak memory so far in GiB: of the GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        import resource
    except ImportError:  # not available on this system
        return 0.0
    unit = 1 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30


def read_log(path: Path) -> list[dict[str, Any]]:
    """The entries of a log. Invalid lines are skipped and reported on stderr, except a last one, which a kill may have
    truncated."""
    entries, bad = [], []
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            entries.append({"step": operator.index(entry["step"]), **entry})
        except (ValueError, TypeError, KeyError):
            bad.append(number)
    if told := [str(number) for number in bad if number != len(lines)]:
        tqdm.write(f"{path}: invalid line {', '.join(told[:5])}: skipped", file=sys.stderr)
    return entries


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
        raise ValueError("wandb is not installed: pip install wandb, or omit the option") from error
    mode: Any = os.environ.get("WANDB_MODE", "offline")
    return wandb.init(project="versatile-diffusion", name=out.name, dir=out, mode=mode)
