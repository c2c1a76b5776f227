"""The training loop for every `Objective`.

A batch is a pure function of (seed, step, number of the batch in the step), so model, EMA, optimizers, random states
and step are all that a checkpoint needs, and a resumed run on the CPU equals an uninterrupted one bit for bit.
(Objectives that read shards also save bookmarks, which only avoid reading data again.) The batches of a step are
numbered over all processes; process r of n takes r, r + n, ..., so a run resumed with another number of processes sees
the same batches.
"""

from __future__ import annotations

import copy
import hashlib
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from tqdm import tqdm

from versatile_diffusion.files import write_whole_folder
from versatile_diffusion.training.engine.autocast import autocast, saves_time
from versatile_diffusion.training.engine.checkpoints import Checkpoints
from versatile_diffusion.training.engine.config import SCHEDULES, LoopSettings
from versatile_diffusion.training.engine.contract import Objective
from versatile_diffusion.training.engine.distributed import (
    ObjectivePass,
    World,
    adding_up,
    gather_tree,
    mesh_of,
    replicate,
    shard,
)
from versatile_diffusion.training.engine.folder import note, owned
from versatile_diffusion.training.engine.posthoc_ema import write_snapshot
from versatile_diffusion.training.engine.sharded import ShardedCheckpoints
from versatile_diffusion.training.engine.state import RunState
from versatile_diffusion.training.engine.tracking import Tracker, memory

__all__ = ["SCHEDULES", "LoopSettings", "Objective", "Outcome", "Settings", "train"]

Settings = Callable[[Any, Path, torch.device], tuple[Objective[Any], LoopSettings]]
"""A recipe: from data, folder of the run and device to the objective and the loop settings."""


@dataclass(frozen=True)
class Outcome:
    """Result of a call of `train`: the step where it stopped, whether the run is complete, and its metrics."""

    step: int
    finished: bool
    metrics: dict[str, float]


def train(objective: Objective[Any], settings: LoopSettings, out: Path, world: World | None = None) -> Outcome:
    """Train `objective`, or resume from the checkpoint in `out`.

    `out` receives `checkpoints/`, `log.jsonl`, `tensorboard/`, `samples/`; at the end `metrics.json` and `export/`.

    Args:
        objective: the same in every process.
        settings: likewise.
        out: a folder that every process can read.
        world: from `distributed.joined` if there are several processes.

    Raises:
        ValueError: the checkpoint in `out` belongs to another objective or other settings, another run trains there, or
            WORLD_SIZE in the environment is not the size of `world`.
        FloatingPointError: a loss or gradient is not finite; the last good checkpoint is kept.
        OSError: the disk is full; ConnectionError: another process died. The last good checkpoint is kept.
    """
    world = World.alone() if world is None else world
    with owned(out, world):
        return go_on(objective, settings, out, world)


def go_on(
    objective: Objective[Any],
    settings: LoopSettings,
    out: Path,
    world: World,
    settled: Callable[[], None] = lambda: None,
) -> Outcome:
    """`train` in a folder that is `owned`. The first process calls `settled` once the checkpoint is accepted; nothing
    is written before."""
    devices = [objective.device] if objective.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), _stop_signals() as stopped:
        run = _Run(objective, settings, out, world)
        if not world.first:
            return run.to_the_end(stopped)
        with Tracker(out, run.state.step, settings.wandb) as run.tracker:
            settled()
            return run.to_the_end(stopped)


class _Run:
    """One call of `train`."""

    tracker: Tracker | None = None  # of the first process

    def __init__(self, objective: Objective[Any], settings: LoopSettings, out: Path, world: World):
        self.objective, self.settings, self.out, self.world = objective, settings, out, world
        on_gpu = objective.device.type == "cuda"
        self.bf16 = on_gpu if settings.bf16 is None else settings.bf16
        if self.bf16 and world.first and not saves_time(objective.device):
            note("this processor has no instructions for bfloat16, which takes many times as long as float32 here")
        background = on_gpu if settings.background is None else settings.background
        self.identity = {"objective": objective.name, **objective.settings(), "loop": settings.identity}
        if any(other != self.identity for other in world.gather(self.identity)):
            raise ValueError("the processes of this run were started with different settings")
        self.state, self.passing = self._begin()
        self.checkpoints: Checkpoints | ShardedCheckpoints
        if settings.checkpoints is not None:
            self.checkpoints = ShardedCheckpoints(settings.checkpoints, settings.keep, world)
            self.checkpoints.load(self.state, self.identity)
        else:
            self.checkpoints = Checkpoints(out, settings.keep, background)
            newest = world.on_first(self.checkpoints.newest)
            if newest is not None:
                self.state.load(newest, self.identity, world)
        objective.start_reading(settings.seed, self.state.reading)
        if world.first and self.state.batches != world.size * settings.accumulate:
            told = f"this run was started with {self.state.batches} batches per step; processes now: {world.size}"
            tqdm.write(told, file=sys.stderr)
        self.start, self.elapsed_before = time.monotonic(), self.state.elapsed
        self.minutes = {
            "stop": settings.minutes,
            "checkpoint": settings.checkpoint_minutes,
            "eval": settings.eval_minutes,
            "sample": settings.sample_minutes,
            "export": settings.export_minutes,
        }
        self.last = dict.fromkeys(self.minutes, self.start)
        self.items, self.aside = 0, 0.0
        self.clock = self.elapsed_before

    def _begin(self) -> tuple[RunState, nn.Module]:
        """The initial state, and the module that computes the loss, replicated or sharded."""
        objective, settings, world = self.objective, self.settings, self.world
        torch.manual_seed(settings.seed)
        module = objective.build().to(objective.device)
        average = copy.deepcopy(module)
        if settings.activation_checkpointing:
            _checkpoint_activations(module)
        if settings.compile is not None:
            module.compile(backend=settings.compile)
        passing: nn.Module = ObjectivePass(objective, module)
        if world.size > 1 and settings.parallel == "ddp":
            passing = replicate(passing)
        elif world.size > 1:
            mesh = mesh_of(objective.device, within_nodes=settings.parallel == "hsdp")
            shard(passing, objective.blocks(module), mesh, self.bf16)
            shard(ObjectivePass(objective, average), (), mesh, bf16=False)
        batches = world.size * settings.accumulate
        state = RunState.fresh(module, objective.optimizers, average, settings.posthoc, batches)
        if not world.first:  # the same weights, but its own random state
            torch.manual_seed(_seed(settings.seed, -1, world.rank))
        return state, passing

    def to_the_end(self, stopped: threading.Event) -> Outcome:
        state, settings, world = self.state, self.settings, self.world
        actions = {
            "checkpoint": self._checkpoint,
            "eval": self._evaluate,
            "sample": self._sample,
            "export": self._export_newest,
        }
        silent = None if world.first else True  # None: disabled without a terminal
        total = settings.last if settings.by_clock is None else None
        with tqdm(total=total, initial=state.step, desc=self.objective.name, disable=silent) as bar:
            while not self._over() and "stop" not in (due := self._due(stopped)):
                for what in due:
                    with self._aside():
                        actions[what]()
                    self.last[what] = time.monotonic()
                self._step()
                bar.update()
                if state.step % settings.log_every == 0:
                    bar.set_postfix(self._log())
                with self._aside():
                    self._snapshot()
        self._checkpoint()
        self.checkpoints.wait()
        if not self._over():
            return Outcome(state.step, False, {})
        self._snapshot(last=True)
        metrics = self._evaluate()
        self._sample()
        average = self._whole_average()
        world.on_first(lambda: self._finish(average, metrics))
        return Outcome(state.step, True, metrics)

    def _over(self) -> bool:
        """Whether the run is complete; with `by_clock`, the clock of the first process decides."""
        if self.settings.by_clock is None:
            return self.state.step >= self.settings.last
        self.clock = self.world.on_first(lambda: self.elapsed_before + time.monotonic() - self.start)
        return self.clock >= 60 * self.settings.by_clock

    def _due(self, stopped: threading.Event) -> list[str]:
        """Actions due before the next step, by the clock of the first process; any process can get a stop signal."""
        now, clock = time.monotonic(), self.world.first
        late = {what: clock and m is not None and now - self.last[what] >= 60 * m for what, m in self.minutes.items()}
        late["stop"] |= stopped.is_set()
        return [what for what, due in zip(late, self.world.any(list(late.values())), strict=True) if due]

    @contextmanager
    def _aside(self) -> Iterator[None]:
        """Exclude the time of the block from the throughput."""
        began = time.monotonic()
        yield
        self.aside += time.monotonic() - began

    def _step(self) -> None:
        state, settings = self.state, self.settings
        state.module.train()
        mine = range(self.world.rank, state.batches, self.world.size)
        for number in mine:
            self._backward(number, share=len(mine), last=number == mine[-1])
        limit = math.inf if settings.clip is None else settings.clip
        norm = nn.utils.clip_grad_norm_(state.module.parameters(), limit)
        for optimizer in state.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * settings.factor(state.step, self.clock)
            with autocast(self.objective.device, self.bf16):  # products of Muon
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        state.measure({"grad_norm": norm}, times=len(mine))
        self.items += self.objective.items(state.step) * state.batches
        state.advance(settings.ema)

    def _backward(self, number: int, share: int, last: bool) -> None:
        """Accumulate the gradients of one batch of the step, divided by `share`, the number of this process's
        batches."""
        objective, state = self.objective, self.state
        device = objective.device
        generator = torch.Generator(device).manual_seed(_seed(self.settings.seed, state.step, number))
        pieces = objective.pieces(objective.numbered_batch(state.step, number, state.batches, generator))
        measured: dict[str, Tensor] = {}
        for left, piece in zip(reversed(range(len(pieces))), pieces, strict=True):
            with nullcontext() if last and not left else adding_up(self.passing):
                with autocast(device, self.bf16):
                    loss, parts = self.passing(piece)
                (loss / share).backward()
            measured = {**measured, "loss": measured.get("loss", 0) + loss.detach(), **parts}
        state.measure(measured)

    def _means(self) -> dict[str, float]:
        """Means of the measurements since the last log entry; raises if one is not finite."""
        means = self.state.means(self.world)
        if bad := [name for name, mean in means.items() if not math.isfinite(mean)]:
            raise FloatingPointError(
                f"{', '.join(bad)} of {self.objective.name} not finite at or shortly before step {self.state.step}; "
                f"the last good checkpoint is kept in {self.out}: lower the learning rate or check the data"
            )
        return means

    def _log(self) -> dict[str, float | str]:
        means, state, seconds = self._means(), self.state, time.monotonic() - self.start
        state.clear()
        speed, peak = self.items / max(seconds - self.aside, 1e-9), memory(self.objective.device)
        if self.tracker is not None:
            line = {**means, "lr_factor": self.settings.factor(state.step - 1, self.clock)}
            extra = {"seconds": self.elapsed_before + seconds, "items_per_second": speed, "memory_gib": peak}
            self.tracker.log(state.step, line, **extra)
        shown: dict[str, float | str] = {"loss": means["loss"], "items/s": round(speed, 1), "GiB": round(peak, 2)}
        return shown | self._left()

    def _left(self) -> dict[str, float | str]:
        """The time left where the clock ends the run; the progress bar itself shows it for a run of a fixed number of
        steps."""
        if self.settings.by_clock is None:
            return {}
        return {"left": tqdm.format_interval(max(0, 60 * self.settings.by_clock - self.clock))}

    def _snapshot(self, last: bool = False) -> None:
        state, settings = self.state, self.settings
        due = state.step % math.ceil(settings.steps / settings.snapshots) == 0
        if settings.posthoc and due is not last:  # the last one may have been due
            averages = gather_tree(state.posthoc.averages, keep=self.world.first)
            if self.world.first:
                write_snapshot(self.out / "posthoc", state.step, settings.posthoc, averages)

    def _checkpoint(self) -> None:
        self._means()
        self.state.elapsed = self.elapsed_before + time.monotonic() - self.start
        self.state.reading = self.objective.bookmarks()
        if isinstance(self.checkpoints, ShardedCheckpoints):
            return self.checkpoints.save(self.state, self.identity)
        content = self.state.content(self.identity, self.world)
        if self.world.first:
            self.checkpoints.save(content, self.state.step)

    def _evaluate(self) -> dict[str, float]:
        average = self._whole_average()
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            metrics = self.world.on_first(lambda: self.objective.evaluate(average))
        self._log_measured("eval", metrics)
        return metrics

    def _log_measured(self, kind: str, metrics: Mapping[str, float] | None) -> None:
        if metrics and self.tracker is not None:
            self.tracker.log(self.state.step, {f"{kind}/{name}": value for name, value in metrics.items()})

    def _sample(self) -> None:
        average, folder = self._whole_average(), self.out / "samples"
        folder.mkdir(exist_ok=True)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            sheet = folder / f"{self.state.step:07d}"
            measured = self.world.on_first(lambda: self.objective.sample_sheet(average, sheet))
        self._log_measured("sample", measured)

    def _export_newest(self) -> None:
        average = self._whole_average()
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            self.world.on_first(lambda: self._write_export(average, "export-newest"))

    def _whole_average(self) -> nn.Module:
        """The EMA; if sharded, gathered in the first process."""
        average = self.state.average.eval()
        if not any(isinstance(p, DTensor) for p in average.parameters()):
            return average
        weights = gather_tree(average.state_dict(), keep=self.world.first)
        if not self.world.first:
            return average
        with torch.random.fork_rng(devices=[]):
            whole: nn.Module = self.objective.build()
        whole.load_state_dict(weights)
        return whole.to(self.objective.device).requires_grad_(False).eval()

    def _finish(self, average: nn.Module, metrics: dict[str, float]) -> None:
        assert self.tracker is not None
        self.tracker.summary(metrics, self.state.step, self.state.elapsed)
        self._write_export(average, "export")

    def _write_export(self, average: nn.Module, name: str) -> None:
        write_whole_folder(self.out / name, lambda new: self.objective.export(average, new))


def _seed(seed: int, step: int, number: int) -> int:
    """Seed of a batch. CPU generators use the low 32 bits only, so these must differ."""
    if seed == 0 and number == 0:
        return step
    return int.from_bytes(hashlib.sha256(f"{seed} {step} {number}".encode()).digest()[:8], "big")


def _checkpoint_activations(module: nn.Module) -> None:
    if not hasattr(module, "enable_gradient_checkpointing"):
        raise ValueError(f"activation_checkpointing is not supported by {type(module).__name__}; omit it")
    module.enable_gradient_checkpointing()  # type: ignore[operator]


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """Make SIGTERM and SIGINT set the event instead of ending the process (only possible in the main thread)."""
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
