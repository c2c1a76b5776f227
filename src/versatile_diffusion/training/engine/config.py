"""Settings of the training loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from versatile_diffusion.printable import shown
from versatile_diffusion.training.engine.posthoc_ema import gamma_of

SCHEDULES: Mapping[str, Callable[[float], float]] = {
    "constant": lambda progress: 1.0,
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
    "trapezoid": lambda progress: min(1.0, (1.0 - progress) / DECAY),
}
DECAY = 0.2
"""Share of a run in which the trapezoid's learning rate decays to zero. Until then it is constant, so the end can be
chosen during the run (warm-up, stable, decay: Hu et al. 2024)."""
PARALLEL = ("ddp", "fsdp", "hsdp")


@dataclass(frozen=True)
class LoopSettings:
    """Settings of the training loop. The fields from `minutes` on may change when a run is resumed.

    Args:
        steps: total training steps, the length of the schedule.
        seed: of the weights and of every batch.
        warmup: steps of linear warm-up.
        schedule: learning-rate schedule, a key of `SCHEDULES`.
        ema: decay of the EMA (lower in the first steps: (1 + t) / (10 + t)).
        clip: maximum gradient norm; None: no clipping.
        minutes: wall-clock limit of this call; the run stops cleanly and can be resumed.
        log_every: steps between log entries.
        checkpoint_minutes, eval_minutes, sample_minutes: wall-clock intervals; None: only at the end.
        accumulate: batches per process and step (gradient accumulation). The number of batches per step over all
            processes is fixed when the run starts: with fewer processes each takes more of them.
        keep: number of checkpoints to keep.
        background: write checkpoints in the background, from a copy in main memory; None: on a GPU.
        parallel: each process holds the whole model (`ddp`), a shard (`fsdp`), or a shard within its node (`hsdp`: only
            gradients are exchanged between nodes).
        bf16: bfloat16 autocast and all-gather; None: on a GPU.
        compile: backend of `torch.compile`, such as `inductor`; None: not compiled.
        activation_checkpointing: recompute activations in the backward pass to save memory.
        posthoc: relative widths of the averages for `posthoc_ema`; only from the first step on.
        snapshots: number of times that these are stored during the run.
        end: final step instead of `steps`, for the trapezoid schedule: choose it when at most 80 % of it are done, and
            pass the same value when resuming.
        by_clock: minutes of training, over all calls, after which the run ends instead of after `steps`. The schedule
            follows the clock, so learning rates reach their end at any speed. Such a run is not reproducible bit for
            bit.
        export_minutes: wall-clock interval of exports of the EMA into `export-newest`; None: no exports.
        checkpoints: a folder or URL where each process writes its part of every checkpoint in the background
            (`torch.distributed.checkpoint`), instead of one file in the run's folder.
        wandb: also log to Weights & Biases, offline unless WANDB_MODE is set.

    Raises:
        ValueError: a value is not allowed.
    """

    steps: int
    seed: int = 0
    warmup: int = 100
    schedule: str = "linear"
    ema: float = 0.999
    clip: float | None = 1.0
    minutes: float | None = None
    log_every: int = 20
    checkpoint_minutes: float = 3.0
    eval_minutes: float | None = 10.0
    sample_minutes: float | None = 10.0
    accumulate: int = 1
    keep: int = 2
    background: bool | None = None
    parallel: str = "ddp"
    bf16: bool | None = None
    compile: str | None = None
    activation_checkpointing: bool = False
    posthoc: tuple[float, ...] = ()
    snapshots: int = 16
    end: int | None = None
    by_clock: float | None = None
    export_minutes: float | None = None
    checkpoints: str | None = None
    wandb: bool = False

    def __post_init__(self) -> None:
        for name, allowed in (("schedule", SCHEDULES), ("parallel", PARALLEL)):
            if (given := getattr(self, name)) not in allowed:
                raise ValueError(f"{name} is {shown(given)}; allowed: {', '.join(allowed)}")
        least = {"steps": 1, "log_every": 1, "accumulate": 1, "keep": 1, "snapshots": 1, "seed": 0, "warmup": 0}
        for name, lowest in least.items():
            if (given := getattr(self, name)) < lowest:
                raise ValueError(f"{name} is {given}; it must be {lowest} or more")
        if self.end is not None and (self.end < 1 or self.schedule != "trapezoid"):
            raise ValueError(f"end is {self.end}; it must be 1 or more, and needs the schedule 'trapezoid'")
        if self.by_clock is not None and (self.by_clock <= 0 or self.end is not None):
            raise ValueError(f"by_clock is {self.by_clock}; it must be above 0, and cannot be combined with end")
        for width in self.posthoc:
            gamma_of(width)  # raises if the width is invalid
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema is {self.ema}; it must be at least 0 and below 1")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip is {self.clip}; it must be above 0, or None")

    @property
    def last(self) -> int:
        """Number of steps of the run."""
        return self.steps if self.end is None else self.end

    def factor(self, step: int, seconds: float = 0.0) -> float:
        """Learning-rate factor in `step` (from 0), `seconds` after the start of the run."""
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        done = (step - self.warmup) / max(1, self.last - self.warmup)
        if self.by_clock is not None:
            done = seconds / (60 * self.by_clock)
        return warm * SCHEDULES[self.schedule](min(1.0, max(0.0, done)))

    @property
    def identity(self) -> dict[str, Any]:
        """The fields that affect the results of a run; they must match to resume it."""
        names = [f.name for f in fields(self)]
        return {k: v for k, v in asdict(self).items() if k in names[: names.index("minutes")]}
