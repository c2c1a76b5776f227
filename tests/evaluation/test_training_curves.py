"""Losses of runs that followed on each other, against the items that they saw."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from versatile_diffusion.evaluation.training_curves import course, items_per_step

SETTINGS = {"objective": "diffuser", "stage": "dual_context", "batch": {"image": 4, "image-variation": 8}}
SHARES = {"text-to-image": 3, "image-variation": 1, "image-to-text": 2}


def write(run: Path, told: dict[str, Any], lines: list[dict[str, Any]]) -> Path:
    run.mkdir()
    (run / "settings.json").write_text(json.dumps(told))
    (run / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 99')
    return run


def test_runs_stand_one_after_the_other(tmp_path: Path) -> None:
    lines = [
        {"step": 20, "text-to-image": 0.9},
        {"step": 50, "eval/text-to-image": 0.8, "eval/image-variation": 0.7},
        {"step": 100, "text-to-image": 0.5},
    ]
    first = write(tmp_path / "first", SETTINGS | {"mixture": SHARES}, lines)
    joint = SETTINGS | {"mixture": SHARES, "joint": True, "started": {"processes": 2}}
    second = write(tmp_path / "second", joint, [{"step": 10, "eval/text-to-image": 0.6}])
    assert (items_per_step(first), items_per_step(second)) == (5, 24)
    found = course([first, second], ["text-to-image"])
    assert {flow: [(x, m.value) for x, m in points] for flow, points in found.losses.items()} == {
        "text-to-image": [(0.25, 0.8), (pytest.approx(0.5 + 0.24), 0.6)]
    }
    assert found.began == [0.5]


def test_a_run_that_was_started_from_python_tells_its_settings_in_its_checkpoint(tmp_path: Path) -> None:
    identity = json.dumps(SETTINGS | {"mixture": {**SHARES, "image-variation": 0}})
    torch.save({"identity": identity, "batches": 3, "step": 7}, tmp_path / "checkpoint.pt")
    assert items_per_step(tmp_path) == 12


def test_another_run_is_refused(tmp_path: Path) -> None:
    for told in ({}, {"objective": "judge"}):
        run = write(tmp_path / str(len(told)), told, [])
        with pytest.raises(ValueError, match="no training run of the diffuser"):
            course([run])
