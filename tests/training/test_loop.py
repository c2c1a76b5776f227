"""The loop: a broken run equals an unbroken one, and it stops as it says."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from versatile_diffusion.training.loop import LoopSettings, Objective, train
from versatile_diffusion.training.optimizer import split_parameters

SETTINGS = LoopSettings(steps=12, warmup=3, log_every=2, eval_minutes=None, sample_minutes=None)


class Regression(Objective):
    """A network with dropout and running statistics; `events` happen when the batch of their step is drawn."""

    name, batch_size, device = "regression", 8, torch.device("cpu")

    def __init__(self, events: dict[int, Any] | None = None, width: int = 6):
        self.events, self.width = events or {}, width

    def settings(self) -> dict[str, Any]:
        return {"width": self.width}

    def build(self) -> nn.Module:
        return nn.Sequential(
            nn.Linear(3, self.width), nn.BatchNorm1d(self.width), nn.Dropout(0.3), nn.Linear(self.width, 1)
        )

    def optimizers(self, module: nn.Module) -> list[torch.optim.Optimizer]:
        return split_parameters(module).optimizers(lr=0.01, weight_decay=0.1)

    def batch(self, step: int, generator: torch.Generator) -> torch.Tensor:
        values = torch.randn(self.batch_size, 3, generator=generator)
        happens = self.events.get(step)
        return values if happens is None else happens(values)

    def loss(self, module: nn.Module, batch: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        error = module(batch)[:, 0] - batch.sum(dim=1)
        return (error**2).mean(), {"size": error.abs().max()}

    def evaluate(self, module: nn.Module) -> dict[str, float]:
        assert not module.training
        return {"at_one": float(module(torch.ones(1, 3)) + 0 * torch.rand(1))}

    def export(self, module: nn.Module, folder: Path) -> None:
        folder.mkdir()
        torch.save(module.state_dict(), folder / "model.pt")


def _stop(values: torch.Tensor) -> torch.Tensor:
    os.kill(os.getpid(), signal.SIGTERM)
    return values


def _die(values: torch.Tensor) -> torch.Tensor:
    raise RuntimeError("killed")


def _lines(out: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "items_per_second")} for line in lines]


def _checkpoint(out: Path) -> dict[str, Any]:
    return torch.load(out / "checkpoint.pt", weights_only=True)


def test_a_broken_run_equals_an_unbroken_one(tmp_path: Path) -> None:
    whole = train(Regression(), SETTINGS, tmp_path / "whole")
    broken = tmp_path / "broken"
    assert train(Regression({2: _stop}), SETTINGS, broken).step == 3  # in the middle of a line of the log
    with pytest.raises(RuntimeError, match="killed"):
        train(Regression({9: _die}), SETTINGS, broken)
    assert _checkpoint(broken)["step"] == 3
    assert _lines(broken)[-1]["step"] == 8  # of the part that is lost
    end = train(Regression(), SETTINGS, broken)
    assert end == whole
    assert end.finished
    assert _lines(broken) == _lines(tmp_path / "whole")
    left, right = _checkpoint(broken), _checkpoint(tmp_path / "whole")
    for part in ("module", "average"):
        assert all(torch.equal(left[part][name], value) for name, value in right[part].items())


def test_a_finished_run_writes_what_it_reached_and_is_not_trained_again(tmp_path: Path) -> None:
    metrics = train(Regression(), SETTINGS, tmp_path).metrics
    assert json.loads((tmp_path / "metrics.json").read_text())["metrics"] == metrics
    exported = torch.load(tmp_path / "export" / "model.pt", weights_only=True)
    average = _checkpoint(tmp_path)["average"]
    assert all(torch.equal(exported[name], value) for name, value in average.items())
    assert not torch.equal(average["0.weight"], _checkpoint(tmp_path)["module"]["0.weight"])


def test_the_loss_falls_and_the_learning_rate_ends_at_zero(tmp_path: Path) -> None:
    train(Regression(), replace(SETTINGS, steps=300, log_every=50), tmp_path)
    lines = [line for line in _lines(tmp_path) if "loss" in line]
    assert lines[-1]["loss"] < 0.7 * lines[0]["loss"]
    assert lines[-1]["lr_factor"] < 0.01


def test_minutes_stop_the_run_and_it_can_go_on(tmp_path: Path) -> None:
    outcome = train(Regression(), replace(SETTINGS, minutes=0), tmp_path)
    assert (outcome.step, outcome.finished) == (0, False)
    assert train(Regression(), SETTINGS, tmp_path).finished


@pytest.mark.parametrize(
    ("objective", "settings", "named"),
    [
        (Regression(width=5), SETTINGS, "width"),
        (Regression(), replace(SETTINGS, seed=1), "seed"),
        (Regression(), replace(SETTINGS, steps=13), "steps"),
    ],
)
def test_another_run_is_refused(tmp_path: Path, objective: Objective, settings: LoopSettings, named: str) -> None:
    train(Regression(), replace(SETTINGS, minutes=0), tmp_path)
    with pytest.raises(ValueError, match=named):
        train(objective, settings, tmp_path)


def test_another_objective_is_refused(tmp_path: Path) -> None:
    train(Regression(), replace(SETTINGS, minutes=0), tmp_path)
    other = Regression()
    other.name = "other"
    with pytest.raises(ValueError, match="regression"):
        train(other, SETTINGS, tmp_path)


def test_a_loss_that_is_not_a_number_stops_the_run_and_keeps_the_checkpoint_before(tmp_path: Path) -> None:
    broken = Regression({6: lambda values: values * float("nan")})
    with pytest.raises(FloatingPointError, match="loss"):
        train(broken, replace(SETTINGS, checkpoint_minutes=0), tmp_path)
    kept = _checkpoint(tmp_path)
    assert kept["step"] == 6
    assert all(value.isfinite().all() for value in kept["module"].values())


def test_training_leaves_the_random_state_of_the_caller_alone(tmp_path: Path) -> None:
    before = torch.get_rng_state()
    train(Regression(), SETTINGS, tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_schedules_rise_then_fall_to_zero(schedule: str) -> None:
    settings = LoopSettings(steps=100, warmup=10, schedule=schedule)
    factors = [settings.factor(step) for step in range(101)]
    assert factors[:10] == sorted(factors[:10])
    assert max(factors) == 1.0 == factors[9]
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert abs(factors[100]) < 1e-9


@pytest.mark.parametrize("wrong", [{"schedule": "stairs"}, {"steps": 0}])
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        LoopSettings(**{"steps": 5, **wrong})
