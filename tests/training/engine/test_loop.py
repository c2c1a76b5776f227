"""The loop: a broken run equals an unbroken one, and it stops as it says."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import shutil
import signal
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from tiny_objectives import SHORT, Flows, Regression

from versatile_diffusion.training.engine import loop, posthoc_ema
from versatile_diffusion.training.engine.folder import held
from versatile_diffusion.training.engine.loop import LoopSettings, Objective, train
from versatile_diffusion.training.engine.posthoc_ema import reconstruct
from versatile_diffusion.training.engine.tracking import Tracker


def _stop(values: torch.Tensor) -> torch.Tensor:
    os.kill(os.getpid(), signal.SIGTERM)
    return values


def _die(values: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("killed")


def _lines(out: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "items_per_second", "memory_gib")} for line in lines]


def _checkpoint(out: Path) -> dict[str, Any]:
    return torch.load(out / "checkpoint.pt", weights_only=True)


@pytest.mark.parametrize("able", [True, False])
def test_bfloat16_on_a_processor_without_it_is_remarked(
    able: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loop, "saves_time", lambda device: able)
    train(Regression(), replace(SHORT, bf16=True), tmp_path)
    assert ("no instructions for bfloat16" in capsys.readouterr().err) is not able


def test_a_broken_run_equals_an_unbroken_one(tmp_path: Path) -> None:
    whole = train(Regression(), SHORT, tmp_path / "whole")
    broken = tmp_path / "broken"
    assert train(Regression({2: _stop}), SHORT, broken).step == 3  # in the middle of a line of the log
    with pytest.raises(RuntimeError, match="killed"):
        train(Regression({9: _die}), SHORT, broken)
    assert _checkpoint(broken)["step"] == 3
    assert _lines(broken)[-1]["step"] == 8  # of the part that is lost
    end = train(Regression(), SHORT, broken)
    assert end == whole
    assert end.finished
    assert _lines(broken) == _lines(tmp_path / "whole")
    left, right = _checkpoint(broken), _checkpoint(tmp_path / "whole")
    for part in ("module", "average"):
        assert all(torch.equal(left[part][name], value) for name, value in right[part].items())


def _kill(values: torch.Tensor) -> torch.Tensor:
    os.kill(os.getpid(), signal.SIGKILL)
    return values


def _kill_while_writing(values: torch.Tensor) -> torch.Tensor:
    """The next write of a checkpoint gets half-way."""
    os.fsync = lambda number: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
    return values


@pytest.mark.skipif(sys.platform != "linux", reason="forks a process that has loaded torch")
@pytest.mark.parametrize(("event", "kept"), [(_kill, 7), (_kill_while_writing, 7)])
def test_a_killed_run_goes_on_exactly(tmp_path: Path, one_thread: None, event: Any, kept: int) -> None:
    settings = replace(SHORT, checkpoint_minutes=0)
    whole = train(Regression(), settings, tmp_path / "whole")
    killed = multiprocessing.get_context("fork").Process(
        target=train, args=(Regression({7: event}), settings, tmp_path / "killed")
    )
    killed.start()
    killed.join(timeout=600)
    assert killed.exitcode == -signal.SIGKILL
    assert _checkpoint(tmp_path / "killed")["step"] == kept
    assert train(Regression(), settings, tmp_path / "killed") == whole
    assert _lines(tmp_path / "killed") == _lines(tmp_path / "whole")


def test_a_damaged_checkpoint_costs_only_the_steps_since_the_one_before(tmp_path: Path) -> None:
    settings = replace(SHORT, checkpoint_minutes=0)
    whole = train(Regression(), settings, tmp_path / "whole")
    train(Regression({8: _stop}), settings, tmp_path / "damaged")
    newest = tmp_path / "damaged" / "checkpoint.pt"
    newest.resolve().write_bytes(newest.read_bytes()[:-10])
    assert train(Regression(), settings, tmp_path / "damaged") == whole
    assert _lines(tmp_path / "damaged") == _lines(tmp_path / "whole")


def test_a_checkpoint_of_the_version_before_is_continued(tmp_path: Path) -> None:
    whole = train(Regression(), SHORT, tmp_path / "whole")
    old = tmp_path / "old"
    train(Regression({5: _stop}), SHORT, old)
    content = {k: v for k, v in _checkpoint(old).items() if k not in ("posthoc", "batches", "others")}
    (old / "checkpoint.pt").unlink()
    shutil.rmtree(old / "checkpoints")
    torch.save(content, old / "checkpoint.pt")
    assert train(Regression(), SHORT, old) == whole
    assert _lines(old) == _lines(tmp_path / "whole")


@pytest.mark.parametrize("harm", ["none", "no hash", "cut"])
def test_a_folder_that_an_earlier_version_wrote_is_gone_on_with(tmp_path: Path, harm: str) -> None:
    """`SHORT` with a checkpoint each step, stopped in step 7 by the version whose hashes stood beside the files."""
    old = tmp_path / "old"
    shutil.copytree(Path(__file__).parents[2] / "data" / "earlier_run", old)
    newest = old / "checkpoints" / "0000007.pt"
    if harm == "no hash":
        newest.with_suffix(".pt.sha256").write_text("")
    elif harm == "cut":
        os.truncate(newest, 9000)
    begun = _lines(old)
    whole = train(Regression(), SHORT, tmp_path / "whole")
    end = train(Regression(), SHORT, old)
    assert (end.step, end.finished) == (whole.step, True)
    assert _lines(old)[: len(begun)] == begun
    for left, right in zip(_lines(old), _lines(tmp_path / "whole"), strict=True):
        assert left == pytest.approx(right, rel=1e-4)  # the processor may be another


def test_batches_are_added_up(tmp_path: Path) -> None:
    """Two batches a step: the gradient is that of their mean, each with chance of its own."""
    drawn = []
    plain = torch.optim.SGD
    flows = Flows({0: lambda values: drawn.append(values) or values})
    flows.optimizers = lambda module: [plain(module.parameters(), lr=0.1)]  # type: ignore[method-assign]
    once = replace(SHORT, steps=1, warmup=0, clip=None, accumulate=2, log_every=1)
    train(flows, once, tmp_path)
    assert len(drawn) == 2
    assert not torch.equal(*drawn)
    torch.manual_seed(SHORT.seed)
    module = flows.build()
    losses = [flows.loss(module, piece)[0] for values in drawn for piece in flows.pieces(values)]
    (sum(losses) / 2).backward()
    plain(module.parameters(), lr=0.1).step()
    trained = _checkpoint(tmp_path)["module"]
    for name, value in module.state_dict().items():
        torch.testing.assert_close(trained[name], value)
    assert _lines(tmp_path)[0]["loss"] == pytest.approx(sum(loss.item() for loss in losses) / 2)


def test_gradients_are_clipped_to_a_norm(tmp_path: Path) -> None:
    """With plain gradient descent the first step is no longer than the rate times the limit, and not without one."""
    moved = {}
    for limit in (None, 0.01):
        flows = Flows()
        flows.optimizers = lambda module: [torch.optim.SGD(module.parameters(), lr=1.0)]  # type: ignore[method-assign]
        train(flows, replace(SHORT, steps=1, warmup=0, clip=limit, log_every=1), tmp_path / str(limit))
        torch.manual_seed(SHORT.seed)
        before = flows.build().state_dict()
        after = _checkpoint(tmp_path / str(limit))["module"]
        moved[limit] = sum(float(((after[name] - before[name]) ** 2).sum()) for name in before) ** 0.5
        assert _lines(tmp_path / str(limit))[0]["grad_norm"] == pytest.approx(moved[None], rel=1e-4)  # before clipping
    assert moved[None] > 0.1
    assert moved[0.01] == pytest.approx(0.01, rel=1e-3)


def test_compiling_changes_no_more_than_rounding(tmp_path: Path) -> None:
    train(Regression(), SHORT, tmp_path / "plain")
    train(Regression(), replace(SHORT, compile="aot_eager"), tmp_path / "compiled")
    for left, right in zip(_lines(tmp_path / "compiled"), _lines(tmp_path / "plain"), strict=True):
        assert left == pytest.approx(right, rel=1e-4)


def test_options_that_cannot_be_had_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="activation_checkpointing is not supported by Sequential"):
        train(Regression(), replace(SHORT, activation_checkpointing=True), tmp_path / "a")
    with held(tmp_path), pytest.raises(ValueError, match="another process is training"):
        train(Regression(), SHORT, tmp_path)
    if find_spec("wandb") is None:
        with pytest.raises(ValueError, match="wandb"):
            train(Regression(), replace(SHORT, wandb=True), tmp_path / "w")


def test_averages_of_other_widths_are_stored_and_go_on(tmp_path: Path) -> None:
    settings = replace(SHORT, posthoc=(0.05, 0.1), snapshots=4)
    train(Regression(), settings, tmp_path / "whole")
    train(Regression({5: _stop}), settings, tmp_path / "broken")
    train(Regression(), settings, tmp_path / "broken")
    for step in (3, 6, 9, 12):
        left, right = (reconstruct(tmp_path / name / "posthoc", 0.07, step) for name in ("whole", "broken"))
        assert all(torch.equal(left[name], right[name]) for name in right)
    with pytest.raises(ValueError, match="posthoc has 0 widths, but the run was started with 2"):
        train(Regression(), SHORT, tmp_path / "broken")


def test_a_finished_run_writes_what_it_reached_and_is_not_trained_again(tmp_path: Path) -> None:
    metrics = train(Regression(), SHORT, tmp_path).metrics
    logged = _lines(tmp_path)
    assert train(Regression(), SHORT, tmp_path).metrics == metrics
    assert _lines(tmp_path) == logged
    assert json.loads((tmp_path / "metrics.json").read_text())["metrics"] == metrics
    exported = torch.load(tmp_path / "export" / "model.pt", weights_only=True)
    average = _checkpoint(tmp_path)["average"]
    assert all(torch.equal(exported[name], value) for name, value in average.items())
    assert not torch.equal(average["0.weight"], _checkpoint(tmp_path)["module"]["0.weight"])


def test_a_finished_run_goes_on_with_more_steps(tmp_path: Path) -> None:
    """Wherever it stops in the added ones, and not before it is finished."""
    longer = replace(SHORT, steps=20)
    for name in ("whole", "broken"):
        train(Regression({5: _stop}), SHORT, tmp_path / name)
        with pytest.raises(ValueError, match="steps"):
            train(Regression(), longer, tmp_path / name)
        assert train(Regression(), SHORT, tmp_path / name).finished
    whole = train(Regression(), longer, tmp_path / "whole")
    assert (whole.step, whole.finished) == (20, True)
    assert _lines(tmp_path / "whole")[-2]["step"] == 20
    assert json.loads((tmp_path / "whole" / "metrics.json").read_text())["steps"] == 20
    exported = torch.load(tmp_path / "whole" / "export" / "model.pt", weights_only=True)
    assert all(torch.equal(exported[n], v) for n, v in _checkpoint(tmp_path / "whole")["average"].items())
    assert train(Regression({14: _stop}), longer, tmp_path / "broken").step == 15
    for other in (SHORT, replace(SHORT, steps=25), replace(longer, seed=1)):
        with pytest.raises(ValueError, match=r"steps|seed"):
            train(Regression(), other, tmp_path / "broken")
    assert train(Regression(), longer, tmp_path / "broken") == whole
    assert _lines(tmp_path / "broken") == _lines(tmp_path / "whole")
    with pytest.raises(ValueError, match="width"):
        train(Regression(width=5), replace(SHORT, steps=30), tmp_path / "whole")


def test_an_export_is_there_whole_or_as_it_was(tmp_path: Path) -> None:
    class Dies(Regression):
        def export(self, module: torch.nn.Module, folder: Path) -> None:
            super().export(module, folder)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(Dies(), SHORT, tmp_path)
    assert not (tmp_path / "export").exists()
    assert train(Regression(), SHORT, tmp_path).finished
    (tmp_path / "export" / "notes.txt").write_text("mine")
    before = (tmp_path / "export" / "model.pt").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        train(Dies(), SHORT, tmp_path)
    assert (tmp_path / "export" / "model.pt").read_bytes() == before
    (tmp_path / "export" / "model.pt").write_text("old")
    assert train(Regression(), SHORT, tmp_path).finished
    assert (tmp_path / "export" / "model.pt").read_bytes() == before
    assert sorted(path.name for path in (tmp_path / "export").iterdir()) == ["model.pt", "notes.txt"]


def test_the_loss_falls_and_the_learning_rate_ends_at_zero(tmp_path: Path) -> None:
    train(Regression(), replace(SHORT, steps=300, log_every=50), tmp_path)
    lines = [line for line in _lines(tmp_path) if "loss" in line]
    assert lines[-1]["loss"] < 0.7 * lines[0]["loss"]
    assert lines[-1]["lr_factor"] < 0.01


def test_minutes_stop_the_run_and_it_can_go_on(tmp_path: Path) -> None:
    outcome = train(Regression(), replace(SHORT, minutes=0), tmp_path)
    assert (outcome.step, outcome.finished) == (0, False)
    assert train(Regression(), SHORT, tmp_path).finished


@pytest.mark.parametrize(
    ("objective", "settings", "named"),
    [
        (Regression(width=5), SHORT, "width"),
        (Regression(), replace(SHORT, seed=1), "seed"),
        (Regression(), replace(SHORT, steps=13), "steps"),
    ],
)
def test_another_run_is_refused(tmp_path: Path, objective: Objective, settings: LoopSettings, named: str) -> None:
    train(Regression(), replace(SHORT, minutes=0), tmp_path)
    with pytest.raises(ValueError, match=named):
        train(objective, settings, tmp_path)


def test_another_objective_is_refused(tmp_path: Path) -> None:
    train(Regression(), replace(SHORT, minutes=0), tmp_path)
    other = Regression()
    other.name = "other"
    with pytest.raises(ValueError, match="regression"):
        train(other, SHORT, tmp_path)


def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_checkpoint_before(tmp_path: Path) -> None:
    broken = Regression({6: lambda values: values * float("nan")})
    with pytest.raises(FloatingPointError, match="loss"):
        train(broken, replace(SHORT, checkpoint_minutes=0), tmp_path)
    kept = _checkpoint(tmp_path)
    assert kept["step"] == 6
    assert all(value.isfinite().all() for value in kept["module"].values())


def test_training_leaves_the_random_state_of_the_caller_alone(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    train(Regression(), SHORT, tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_constant_schedule_stays_where_the_warm_up_ends() -> None:
    settings = LoopSettings(steps=100, warmup=10, schedule="constant")
    factors = [settings.factor(step) for step in range(101)]
    assert factors[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert set(factors[10:]) == {1.0}


def test_a_trapezoid_falls_to_zero_over_its_last_fifth_wherever_it_ends() -> None:
    settings = LoopSettings(steps=1000, warmup=0, schedule="trapezoid")
    factors = [settings.factor(step) for step in (0, 400, 799, 900, 1000)]
    assert factors == pytest.approx([1, 1, 1, 0.5, 0])
    sooner = replace(settings, end=500)
    assert (sooner.last, sooner.identity) == (500, settings.identity)
    assert [sooner.factor(step) for step in (0, 399, 450, 500)] == pytest.approx([1, 1, 0.5, 0])


def test_a_run_ends_where_it_is_told_while_it_goes_on(tmp_path: Path) -> None:
    settings = replace(SHORT, steps=1000, schedule="trapezoid", warmup=0, log_every=1)
    with pytest.raises(ValueError, match="end is 5; it must be 1 or more, and needs the schedule 'trapezoid'"):
        replace(SHORT, schedule="linear", end=5)
    assert not train(Regression(), replace(settings, minutes=1e-9), tmp_path).finished
    done = train(Regression(), replace(settings, end=20), tmp_path)
    assert (done.step, done.finished, (tmp_path / "export").exists()) == (20, True, True)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    factors = {line["step"]: line["lr_factor"] for line in lines if "lr_factor" in line}
    assert factors[16] == 1.0
    assert factors[20] == pytest.approx(0.25)


class Timed(Regression):
    """Drawing a batch takes a second, and showing how it does takes long; the number of items differs by step."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def items(self, step: int) -> int:
        return 8 if step % 2 else 2

    def batch(self, step: int, generator: torch.Generator) -> torch.Tensor:
        self.now += 1
        return super().batch(step, generator)[: self.items(step)]

    def evaluate(self, module: torch.nn.Module) -> dict[str, float]:
        self.now += 100
        return {}

    def sample_sheet(self, module: torch.nn.Module, path: Path) -> None:
        self.now += 1000


def test_the_throughput_is_of_the_items_trained_and_the_time_of_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    timed = Timed()
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: timed.now))
    settings = replace(SHORT, steps=6, eval_minutes=1, sample_minutes=0, accumulate=2)
    train(timed, settings, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["items_per_second"] for line in lines if "loss" in line] == [5.0] * 3
    assert lines[0]["seconds"] > 2000


@pytest.mark.parametrize("what", ["posthoc", "export", "log", "samples"])
def test_a_full_disk_is_told_with_what_is_safe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def unsaved(*_: Any, **__: Any) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    regression = Regression()
    if what == "posthoc":
        monkeypatch.setattr(posthoc_ema, "save_file", unsaved)
    elif what == "export":
        monkeypatch.setattr(regression, "export", unsaved)
    elif what == "log":
        monkeypatch.setattr(Tracker, "log", full)
    else:
        monkeypatch.setattr(regression, "sample_sheet", full)
    settings = replace(SHORT, checkpoint_minutes=0, posthoc=(0.1,), snapshots=4)
    kept = {"posthoc": 2, "log": 1}.get(what, 12)
    with pytest.raises(
        OSError, match=rf"(?s)No space left.*available checkpoints: .*{kept:07d}\.pt; free some space"
    ) as error:
        train(regression, settings, tmp_path)
    assert str(error.value).startswith(f"{tmp_path} could not be written to")
    assert _checkpoint(tmp_path)["step"] == kept
    assert not list(tmp_path.rglob("*.tmp"))
    monkeypatch.undo()
    assert train(Regression(), settings, tmp_path).finished


def test_other_errors_of_reading_and_writing_stay_as_they_are(tmp_path: Path) -> None:
    for error in (FileNotFoundError(errno.ENOENT, "gone"), SafetensorError("Error while deserializing: bad header")):

        def fail(values: torch.Tensor, error: Exception = error) -> torch.Tensor:
            raise error

        with pytest.raises(type(error), match=r"gone|bad header"):
            train(Regression({1: fail}), SHORT, tmp_path)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_schedules_rise_then_fall_to_zero(schedule: str) -> None:
    settings = LoopSettings(steps=100, warmup=10, schedule=schedule)
    factors = [settings.factor(step) for step in range(101)]
    assert factors[:10] == sorted(factors[:10])
    assert max(factors) == 1.0 == factors[9]
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert abs(factors[100]) < 1e-9


@pytest.mark.parametrize(
    "wrong",
    [
        {"schedule": "stairs"},
        {"steps": 0},
        {"parallel": "tensor"},
        {"accumulate": 0},
        {"keep": 0},
        {"ema": 1.0},
        {"clip": 0.0},
        {"log_every": 0},
    ],
)
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LoopSettings(**{"steps": 5, **wrong})


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock of the loop that goes on by a second whenever it is read."""
    now = iter(range(1_000_000))
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: float(next(now))))


def test_by_the_clock_the_learning_rate_ends_at_zero_whatever_the_speed(clock: None, tmp_path: Path) -> None:
    settings = replace(SHORT, steps=10_000, schedule="trapezoid", warmup=0, log_every=1, by_clock=2.0)
    outcome = train(Regression(), settings, tmp_path)
    assert outcome.finished
    assert 2 < outcome.step < 120
    factors = [line["lr_factor"] for line in _lines(tmp_path) if "lr_factor" in line]
    assert factors[0] == 1.0
    assert 0 <= factors[-1] < 0.25
    assert (tmp_path / "export" / "model.pt").is_file()


def test_by_the_clock_the_last_averages_are_stored(clock: None, tmp_path: Path) -> None:
    settings = replace(SHORT, steps=10_000, schedule="trapezoid", warmup=0, by_clock=2.0, posthoc=(0.05, 0.1))
    outcome = train(Regression(), settings, tmp_path)
    assert [file.stem for file in sorted((tmp_path / "posthoc").glob("*.safetensors"))] == [f"{outcome.step:07}"]


def test_the_progress_line_has_the_time_left(clock: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of so many steps has it from the progress bar itself."""
    told: list[dict[str, Any]] = []
    monkeypatch.setattr(loop.tqdm, "set_postfix", lambda bar, line: told.append(line))
    settings = replace(SHORT, steps=10_000, schedule="trapezoid", warmup=0, log_every=1, by_clock=2.0)
    train(Regression(), settings, tmp_path / "clock")
    left = [line["left"] for line in told]
    assert left == sorted(left, reverse=True)
    assert left[0] > left[-1] >= "00:00"
    assert all("loss" in line for line in told)
    told.clear()
    train(Regression(), replace(SHORT, log_every=1), tmp_path / "steps")
    assert told
    assert not any("left" in line for line in told)


def test_the_clock_goes_on_where_a_call_stopped(clock: None, tmp_path: Path) -> None:
    settings = replace(SHORT, steps=10_000, schedule="trapezoid", warmup=0, by_clock=2.0)
    first = train(Regression(), replace(settings, minutes=1.0), tmp_path)
    assert not first.finished
    second = train(Regression(), settings, tmp_path)
    assert second.finished
    whole = train(Regression(), settings, tmp_path / "whole")
    assert abs(second.step - whole.step) < first.step < whole.step


def test_the_average_is_exported_while_the_run_goes_on(clock: None, tmp_path: Path) -> None:
    seen: list[bool] = []

    def look(values: torch.Tensor) -> torch.Tensor:
        seen.append((tmp_path / "export-newest" / "model.pt").is_file())
        return values

    train(Regression({1: look, 11: look}), replace(SHORT, export_minutes=0.1), tmp_path)
    assert seen == [False, True]


def test_a_clock_and_an_end_are_not_both_given() -> None:
    with pytest.raises(ValueError, match=r"by_clock is 3\.0; it must be above 0, and cannot be combined with end"):
        LoopSettings(steps=3, schedule="trapezoid", end=2, by_clock=3.0)
