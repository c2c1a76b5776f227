"""One training loop for everything that is trained here; what is trained is an `Objective`.

An objective's batch is a pure function of (seed, step), so a run needs no loader state to go on: model, averaged model,
optimizers, random states and step are all there is, and a resumed run on the CPU equals an unbroken one bit for bit.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from versatile_diffusion.training.state import RunState, load_state, save_state
from versatile_diffusion.training.tracking import Tracker

Trained = TypeVar("Trained", bound=nn.Module)
"""The module that an objective trains."""

SCHEDULES = {
    "constant": lambda progress: 1.0,
    "linear": lambda progress: 1.0 - progress,
    "cosine": lambda progress: 0.5 * (1.0 + math.cos(math.pi * progress)),
}


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

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule is {self.schedule!r}; allowed: {', '.join(SCHEDULES)}")
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}; it must be 1 or more")

    def factor(self, step: int) -> float:
        """What the learning rates are multiplied by in `step` (counted from 0)."""
        warm = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        rest = max(1, self.steps - self.warmup)
        return warm * SCHEDULES[self.schedule](min(1.0, max(0.0, (step - self.warmup) / rest)))

    @property
    def identity(self) -> dict[str, Any]:
        """The fields that decide the numbers of a run; a checkpoint is only continued with the same."""
        names = [f.name for f in fields(self)]
        return {k: v for k, v in asdict(self).items() if k in names[: names.index("minutes")]}


class Objective(ABC, Generic[Trained]):
    """What is trained, on what, and how well it does.

    Attributes:
        name: as on the command line.
        batch_size: items per step, for the throughput.
        device: where the module and the batches live.
    """

    name: str
    batch_size: int
    device: torch.device

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Plain JSON values that tell this objective from another; compared when a run goes on."""

    @abstractmethod
    def build(self) -> Trained:
        """A fresh module of all that is trained (from torch's random state); its state dict is the checkpoint and its
        parameters and buffers are averaged."""

    @abstractmethod
    def optimizers(self, module: Trained) -> list[torch.optim.Optimizer]:
        """Optimizers over the parameters of `module`, with the learning rates that the schedule multiplies."""

    @abstractmethod
    def batch(self, step: int, generator: torch.Generator) -> Any:
        """The batch of `step`, noise included; all chance comes from `generator` (on `device`, seeded for the step)."""

    @abstractmethod
    def loss(self, module: Trained, batch: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss (a scalar) and its named parts for the log."""

    def evaluate(self, module: Trained) -> dict[str, float]:
        """Measures on held-out data; `module` is the averaged one, in eval mode, gradients are off."""
        return {}

    def sample_sheet(self, module: Trained, path: Path) -> None:
        """Writes a picture or text to look at; `path` has no suffix yet."""

    def export(self, module: Trained, folder: Path) -> None:
        """Writes what users load, with `save_pretrained`, below `folder`."""


@dataclass(frozen=True)
class Outcome:
    """Where a call of `train` stopped: after `step` steps, and whether the run is complete."""

    step: int
    finished: bool
    metrics: dict[str, float]


def train(objective: Objective, settings: LoopSettings, out: Path) -> Outcome:
    """Trains `objective`, or goes on where the checkpoint in `out` stands.

    `out` receives `checkpoint.pt`, `log.jsonl`, `tensorboard/`, `samples/`; at the end `metrics.json` and `export/`.

    Raises:
        ValueError: the checkpoint in `out` belongs to another objective or other settings.
        FloatingPointError: a loss or gradient is not finite; the last good checkpoint stays.
    """
    out.mkdir(parents=True, exist_ok=True)
    devices = [objective.device] if objective.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), _stop_signals() as stopped:
        torch.manual_seed(settings.seed)
        state = RunState.fresh(objective.build().to(objective.device), objective.optimizers)
        identity = {"objective": objective.name, **objective.settings(), "loop": settings.identity}
        load_state(out / "checkpoint.pt", state, identity)
        with Tracker(out, state.step) as tracker:
            run = _Run(objective, settings, out, state, identity, tracker)
            return run.to_the_end(stopped)


class _Run:
    """One call of `train`."""

    def __init__(self, objective, settings, out, state, identity, tracker):
        self.objective, self.settings, self.out = objective, settings, out
        self.state, self.identity, self.tracker = state, identity, tracker
        self.start, self.elapsed_before = time.monotonic(), state.elapsed
        self.last = dict.fromkeys(("checkpoint", "eval", "sample"), self.start)

    def to_the_end(self, stopped: threading.Event) -> Outcome:
        state, settings = self.state, self.settings
        with tqdm(total=settings.steps, initial=state.step, desc=self.objective.name, disable=None) as bar:
            while state.step < settings.steps and not stopped.is_set() and not self._out_of_time():
                self._step()
                bar.update()
                if state.step % settings.log_every == 0:
                    bar.set_postfix(self._log())
                self._now_and_then()
        self._checkpoint()
        if state.step < settings.steps:
            return Outcome(state.step, False, {})
        metrics = self._evaluate()
        self._sample()
        self.tracker.summary(metrics, state.step, state.elapsed)
        self.objective.export(state.average.eval(), self.out / "export")
        return Outcome(state.step, True, metrics)

    def _step(self) -> None:
        objective, state, settings = self.objective, self.state, self.settings
        generator = torch.Generator(objective.device).manual_seed((settings.seed << 32) + state.step)
        batch = objective.batch(state.step, generator)
        kind = objective.device.type
        state.module.train()
        with torch.autocast(kind, dtype=torch.bfloat16, enabled=kind == "cuda"):
            loss, parts = objective.loss(state.module, batch)
        loss.backward()
        limit = math.inf if settings.clip is None else settings.clip
        norm = nn.utils.clip_grad_norm_(state.module.parameters(), limit)
        for optimizer in state.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * settings.factor(state.step)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        state.count({"loss": loss, "grad_norm": norm, **parts}, settings.ema)

    def _check(self) -> None:
        """Raises when anything since the last line of the log was not finite."""
        bad = [name for name, total in self.state.window.items() if not math.isfinite(float(total))]
        if bad:
            raise FloatingPointError(
                f"{', '.join(bad)} of {self.objective.name} not finite at or shortly before step {self.state.step}; "
                f"the last good checkpoint is kept in {self.out}: lower the learning rate or look at the data"
            )

    def _log(self) -> dict[str, float]:
        self._check()
        state, seconds = self.state, time.monotonic() - self.start
        means = state.means()
        lr = self.settings.factor(state.step - 1)
        speed = (state.step - state.first_step) * self.objective.batch_size / max(seconds, 1e-9)
        line = {**means, "lr_factor": lr}
        self.tracker.log(state.step, line, seconds=self.elapsed_before + seconds, items_per_second=speed)
        return {"loss": means["loss"], "items/s": round(speed, 1)}

    def _now_and_then(self) -> None:
        settings = self.settings
        for what, minutes, action in (
            ("checkpoint", settings.checkpoint_minutes, self._checkpoint),
            ("eval", settings.eval_minutes, self._evaluate),
            ("sample", settings.sample_minutes, self._sample),
        ):
            if minutes is not None and time.monotonic() - self.last[what] >= 60 * minutes:
                action()
                self.last[what] = time.monotonic()

    def _checkpoint(self) -> None:
        self._check()
        self.state.elapsed = self.elapsed_before + time.monotonic() - self.start
        save_state(self.out / "checkpoint.pt", self.state, self.identity)

    def _evaluate(self) -> dict[str, float]:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            metrics = self.objective.evaluate(self.state.average.eval())
        if metrics:
            self.tracker.log(self.state.step, {f"eval/{name}": value for name, value in metrics.items()})
        return metrics

    def _sample(self) -> None:
        folder = self.out / "samples"
        folder.mkdir(exist_ok=True)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            self.objective.sample_sheet(self.state.average.eval(), folder / f"{self.state.step:07d}")

    def _out_of_time(self) -> bool:
        minutes = self.settings.minutes
        return minutes is not None and time.monotonic() - self.start >= 60 * minutes


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """SIGTERM and SIGINT set the event instead of ending the process (signals reach only the main thread)."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    previous = {s: signal.signal(s, lambda *_: stopped.set()) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stopped
    finally:
        for which, handler in previous.items():
            signal.signal(which, handler)
