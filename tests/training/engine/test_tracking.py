"""What a run writes down: its log, TensorBoard's files, and Weights & Biases."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tiny_objectives import SHORT, Regression
from torch import nn

from versatile_diffusion.training.engine.loop import train
from versatile_diffusion.training.engine.tracking import Tracker, read_log


class Shown(Regression):
    """Its sheets have a number."""

    def sample_sheet(self, module: nn.Module, path: Path) -> dict[str, float]:
        path.with_suffix(".txt").write_text("seen")
        return {"agreement": 0.5}


class Board:
    """In place of wandb: keeps what it is given."""

    def __init__(self) -> None:
        self.told: dict[str, Any] = {}
        self.lines: list[dict[str, float]] = []
        self.ended = False

    def init(self, **told: Any) -> Board:
        self.told = told
        return self

    def log(self, values: dict[str, float], step: int) -> None:
        self.lines.append({"step": step, **values})

    def finish(self) -> None:
        self.ended = True


def test_the_log_has_losses_speed_memory_and_what_was_measured(tmp_path: Path) -> None:
    train(Shown(), SHORT, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12, 12, 12]
    assert {"loss", "size", "grad_norm", "lr_factor"} <= set(lines[0])
    assert all(line["items_per_second"] > 0 and line["memory_gib"] > 0 for line in lines[:6])
    assert [set(line) for line in lines[6:]] == [{"step", "eval/at_one"}, {"step", "sample/agreement"}]
    assert (tmp_path / "samples" / "0000012.txt").read_text() == "seen"


def test_tensorboard_gets_the_same(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(Regression(), SHORT, tmp_path)
    board = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    told = [(event.step, event.value) for event in board.Scalars("loss")]
    assert told == [(line["step"], pytest.approx(line["loss"], rel=1e-6)) for line in lines if "loss" in line]
    assert [event.value for event in board.Scalars("eval/at_one")] == [pytest.approx(lines[-1]["eval/at_one"])]


def test_weights_and_biases_gets_the_same_if_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    board = Board()
    monkeypatch.setitem(sys.modules, "wandb", board)  # type: ignore[arg-type]
    monkeypatch.delenv("WANDB_MODE", raising=False)
    train(Regression(), SHORT, tmp_path / "without")
    assert not board.lines
    train(Regression(), replace(SHORT, wandb=True), tmp_path / "mine")
    assert (board.told["mode"], board.told["name"], board.ended) == ("offline", "mine", True)
    lines = [json.loads(line) for line in (tmp_path / "mine" / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in board.lines] == [line["step"] for line in lines]
    assert board.lines[0]["loss"] == lines[0]["loss"]


@pytest.mark.parametrize(
    "line",
    [
        b'{"step": 4, "loss": 0.',
        b"",
        b"null",
        b"12",
        b'["step"]',
        b'{"loss": 1}',
        b'{"step": "4"}',
        b'{"step": 4.5}',
        b'{"step": null}',
        b"\xff\xfe\x00",
        b'{"step": 4, "loss": 1.0}{"step": 5, "loss": 1.0}',
    ],
)
def test_lines_that_cannot_be_read_are_passed_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], line: bytes
) -> None:
    good = {"step": 2, "loss": 0.1, "note": "a\u2028b"}
    path = tmp_path / "log.jsonl"
    path.write_bytes(json.dumps(good, ensure_ascii=False).encode() + b"\n" + line)  # the last one, cut short by a kill
    assert read_log(path) == [good]
    assert capsys.readouterr().err == ""
    path.write_bytes(line + b"\n" + path.read_bytes())
    with Tracker(tmp_path, step=3) as tracker:
        tracker.log(4, {"loss": 0.5})
    assert [entry["step"] for entry in read_log(path)] == [2, 4]
    assert "log.jsonl: invalid line 1:" in capsys.readouterr().err
