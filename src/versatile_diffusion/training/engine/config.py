"""How long a run trains, and how."""

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
"""The share of a run in which the learning rate of the trapezoid falls to zero. Until then it is constant, so the end
can be chosen while the run goes on (warm-up, stable, decay: Hu et al. 2024)."""
PARALLEL = ("ddp", "fsdp", "hsdp")


@dataclass(frozen=True)
class LoopSettings:
    """How long and how a run trains. The fields from `minutes` on may change between the parts of one run.

    Args:
        steps: length of the whole run; the learning rate reaches its end there.
        seed: of the weights and of every batch.
        warmup: steps of linear warm-up.
        schedule: a key of `SCHEDULES`, the factor on every learning rate.
        ema: decay of the averaged model (lower in the first steps: (1 + t) / (10 + t)).
        clip: largest norm of all gradients together; None never clips.
        minutes: wall-clock limit of this call; the run stops cleanly and can go on.
        log_every: steps per line of the log.
        checkpoint_minutes, eval_minutes, sample_minutes: wall-clock spacing; None for only at the end.
        accumulate: batches that each process adds up per step. The batches of a step over all processes are settled
            when the run begins: with fewer processes each takes more of them.
        keep: how many of the last checkpoints stay.
        background: write checkpoints while training goes on, from a copy in main memory; None does so on a GPU.
        parallel: several processes hold the whole model each (`ddp`), a shard each (`fsdp`), or a shard each of their
            node's whole one (`hsdp`: between nodes only gradients travel).
        bf16: autocast to bfloat16, and shards gathered in bfloat16; None does so on a GPU.
        compile: backend of `torch.compile` for the trained module, such as `inductor`; None does not compile.
        activation_checkpointing: compute activations again in the backward pass, for less memory.
        posthoc: relative widths of averages for `posthoc_ema`; only from the first step on.
        snapshots: how many times over the run those are written.
        end: the step at which the run ends, in place of `steps`, where the schedule is a trapezoid: choose it when the
            run has done four fifths of it or less, and give the same one to whatever goes on with the run.
        by_clock: minutes of training, over all calls, after which the run ends in place of `steps`. The schedule
            follows the clock: the learning rates reach their end then, at any speed. Such a run does not repeat bit for
            bit.
        export_minutes: wall-clock spacing of exports of the averaged model into `export-newest`; None for none.
        checkpoints: a folder or a URL where each process writes its own part of every checkpoint while training goes on
            (`torch.distributed.checkpoint`), in place of one file in the run's folder.
        wandb: log to Weights & Biases too, offline unless WANDB_MODE says otherwise.

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
            raise ValueError(f"end is {self.end}; it must be 1 or more, and goes with the schedule 'trapezoid' alone")
        if self.by_clock is not None and (self.by_clock <= 0 or self.end is not None):
            raise ValueError(f"by_clock is {self.by_clock}; it must be above 0, and goes without end")
        for width in self.posthoc:
            gamma_of(width)  # raises where there is no such average
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema is {self.ema}; it must be at least 0 and below 1")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip is {self.clip}; it must be above 0, or None")

    @property
    def last(self) -> int:
        """How many steps the run has."""
        return self.steps if self.end is None else self.end

    def factor(self, step: int, seconds: float = 0.0) -> float:
        """What the learning rates are multiplied by in `step` (counted from 0), `seconds` after the run began."""
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        done = (step - self.warmup) / max(1, self.last - self.warmup)
        if self.by_clock is not None:
            done = seconds / (60 * self.by_clock)
        return warm * SCHEDULES[self.schedule](min(1.0, max(0.0, done)))

    @property
    def identity(self) -> dict[str, Any]:
        """The fields that decide the numbers of a run; a checkpoint is only continued with the same."""
        names = [f.name for f in fields(self)]
        return {k: v for k, v in asdict(self).items() if k in names[: names.index("minutes")]}
