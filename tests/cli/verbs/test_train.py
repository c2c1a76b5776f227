"""`versatile train`: what is checked first, what is written, how it ends."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError
from tiny_objectives import SHORT, Regression

from tests.cli.conftest import Command
from versatile_diffusion.cli.verbs.train import _out as default_out
from versatile_diffusion.recipes.emoji.diffuser import STAGE_FOLDERS
from versatile_diffusion.recipes.export import export
from versatile_diffusion.recipes.settings import SETTINGS
from versatile_diffusion.training.engine import launch as launching
from versatile_diffusion.training.engine.posthoc_ema import reconstruct


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[int, Any]:
    """What happens when the batch of a step is drawn, in the objective `tiny`."""
    happens: dict[int, Any] = {}
    built = lambda data, out, device: (Regression(happens), SHORT)  # noqa: E731
    monkeypatch.setitem(SETTINGS, "tiny", {"emoji": built})
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    (tmp_path / "set").mkdir()
    return happens


TINY = ("train", "tiny", "--data", "set", "--out", "run", "--device", "cpu")


def test_a_run_and_its_export(versatile: Command, events: dict[int, Any]) -> None:
    def stop(values: torch.Tensor) -> torch.Tensor:
        os.kill(os.getpid(), signal.SIGTERM)
        return values

    events[4] = stop
    answer = versatile(*TINY, "--posthoc", "0.05,0.1", "--accumulate", 2)
    assert (answer.code, "run: step 5, stopped" in answer.out) == (0, True)
    assert "`versatile train --export run --to my-model` makes a model of it" in answer.out
    written = json.loads(Path("run/settings.json").read_text())
    assert len([line for line in answer.err.splitlines() if ": " in line]) <= 10
    assert f"all settings: {Path('run') / 'settings.json'}" in answer.err
    assert (written["loop"]["posthoc"], written["loop"]["accumulate"]) == ([0.05, 0.1], 2)
    assert (written["started"]["processes"], written["width"]) == (1, 6)
    assert versatile("train", "--export", "run").out.strip() == "run/export-0000005"
    exported = torch.load("run/export-0000005/model.pt", weights_only=True)
    average = torch.load("run/checkpoint.pt", weights_only=True)["average"]
    assert all(torch.equal(exported[name], value) for name, value in average.items())
    events.clear()
    assert "finished; " in versatile(*TINY, "--posthoc", "0.05,0.1", "--accumulate", 2).out
    export(Path("run"), Path("wider"), ema=0.08)
    wider = torch.load("wider/model.pt", weights_only=True)
    assert all(torch.equal(wider[name], value) for name, value in reconstruct(Path("run/posthoc"), 0.08).items())
    Path("set").rmdir()
    answer = versatile("train", "--export", "run", "--to", "moved")
    assert answer.code == 2
    assert "give --data" in answer.err


def test_an_export_is_written_whole(
    versatile: Command, events: dict[int, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert versatile(*TINY).code == 0
    for damaged in ("", "{", "[]", "null", '{"settings": "emoji"}', "\ufeff{}"):
        Path("run/settings.json").write_text(damaged)
        answer = versatile("train", "--export", "run", "--to", "model")
        assert (answer.code, answer.err.count("\n")) == (2, 1)
        assert "run/settings.json is damaged" in answer.err
    assert "finished; " in versatile(*TINY).out  # writes it anew

    def full(self: Regression, module: torch.nn.Module, folder: Path) -> None:
        folder.mkdir()
        (folder / "model.pt").write_text("half")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as patch:
        patch.setattr(Regression, "export", full)
        answer = versatile("train", "--export", "run", "--to", "some/model")
    assert (answer.code, answer.err.count("\n")) == (2, 1)
    assert "some/model could not be written to" in answer.err
    assert [*Path("some").iterdir()] == []
    assert versatile("train", "--export", "run", "--to", "some/model").code == 0
    Path("some/model/README.md").write_text("mine")
    assert versatile("train", "--export", "run", "--to", "some/model").code == 0
    assert sorted(path.name for path in Path("some/model").iterdir()) == ["README.md", "model.pt"]


def test_a_finished_run_takes_more_steps(versatile: Command, events: dict[int, Any]) -> None:
    assert "run: step 12, finished" in versatile(*TINY).out
    assert "run: step 15, finished" in versatile(*TINY, "--steps", 15).out
    assert json.loads(Path("run/settings.json").read_text())["loop"]["steps"] == 15
    answer = versatile(*TINY)
    assert answer.code == 2
    assert "'steps': 15" in answer.err


def test_a_loss_that_is_not_a_number_is_told_in_a_line(versatile: Command, events: dict[int, Any]) -> None:
    events[3] = lambda values: values * float("nan")
    answer = versatile(*TINY)
    assert answer.code == 2
    assert answer.err.splitlines()[-1].startswith("error: loss")
    assert "last good checkpoint is kept in run" in answer.err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--parallel", "tensor"], "ddp, fsdp"),
        (["--clip", "0"], "clip is 0.0"),
        (["--posthoc", "wide"], "--posthoc is 'wide'"),
        (["--posthoc", "0.5"], "width is 0.5"),
        (["--minutes", "0"], "--minutes is 0.0"),
        (["--to", "there"], "go with --export"),
        (["--device", "meta"], "cuda and cpu"),
        (["--settings", "huge"], "unknown settings of tiny 'huge'; allowed: emoji"),
        (["--data", "nowhere"], "nowhere, where there is no folder"),
    ],
)
def test_mistakes_are_told_before_anything_is_built(
    versatile: Command, events: dict[int, Any], monkeypatch: pytest.MonkeyPatch, words: list[str], told: str
) -> None:
    def never(*_: object) -> Any:
        raise AssertionError("something was built")

    monkeypatch.setitem(SETTINGS["tiny"], "emoji", never)
    answer = versatile(*TINY, *words)
    assert answer.code == 2
    assert told in answer.err
    assert answer.err.count("\n") == 1
    assert not Path("run").exists()


def test_a_run_without_a_folder_gets_one(versatile: Command, events: dict[int, Any]) -> None:
    def stop(values: torch.Tensor) -> torch.Tensor:
        os.kill(os.getpid(), signal.SIGTERM)
        return values

    events[4] = stop
    words = ("train", "tiny", "--data", "set", "--device", "cpu")
    answer = versatile(*words)
    assert answer.err.startswith("the run's folder is runs/emoji/tiny; --out names another\n")
    assert "runs/emoji/tiny: step 5, stopped" in answer.out
    events.clear()
    again = json.loads(versatile(*words, "--json").out)
    assert (again["out"], again["step"], again["finished"]) == ("runs/emoji/tiny", 12, True)
    assert [path.name for path in Path("runs").iterdir()] == ["emoji"]


@pytest.mark.parametrize(
    ("given", "folder"),
    [
        ({"start": "emoji", "data": Path("photos/my pictures/")}, "runs/emoji-my-pictures"),
        ({"start": "lab/four-flow", "data": Path("shards/train-*.tar")}, "runs/four-flow-train-tar"),
        ({"start": "runs/first/export", "data": Path("..")}, "runs/first-mine"),
        ({"start": "runs/first/export-0000005/", "data": Path("photos")}, "runs/first-photos"),
        ({"start": None, "objective": "text-codec", "settings": "emoji"}, "runs/emoji/text-codec"),
        ({"start": None, "objective": "diffuser", "settings": "emoji-tiny-joint"}, "runs/emoji/diffuser-tiny-joint"),
    ],
)
def test_the_folder_is_named_for_what_is_trained(given: dict[str, Any], folder: str) -> None:
    assert default_out(given) == Path(folder)


def test_a_stage_is_where_the_next_one_looks_for_it() -> None:
    for stage, folder in STAGE_FOLDERS.items():
        settings = "emoji" if stage == "official" else f"emoji-{stage.replace('_', '-')}"
        assert settings in SETTINGS["diffuser"]
        given = {"start": None, "objective": "diffuser", "settings": settings}
        assert default_out(given) == Path("runs/emoji", folder)


def test_what_holds_no_run_is_not_exported(versatile: Command, tmp_path: Path) -> None:
    answer = versatile("train", "--export", tmp_path)
    assert answer.code == 2
    assert "contains no run with a checkpoint" in answer.err


def test_several_processes_get_the_same_command(
    versatile: Command, events: dict[int, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[Any] = []
    monkeypatch.setattr(launching, "launch", lambda command, count: started.append((command, count)) or 7)
    answer = versatile(*TINY, "--nproc", 2, "--no-bf16", "--wandb", "--checkpoint-minutes", 5, "--parallel", "fsdp")
    assert answer.code == 7
    ((command, count),) = started
    assert (command[:4], count) == ([sys.executable, "-m", "versatile_diffusion.train", "tiny"], 2)
    assert "--nproc" not in command
    told = " ".join(command[4:])
    for part in ("--data set", "--out run", "--no-bf16", "--wandb", "--checkpoint-minutes 5.0", "--parallel fsdp"):
        assert part in told
    assert "None" not in told
