"""What every modality can do on the command line: in by file, folder and stdin, out as what it is."""

from __future__ import annotations

import io
import json
import shutil
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Command
from tests.conformance.conftest import ALL, FLOWS, TASK, same, saved
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.pipeline.pipeline import VersatileDiffusionPipeline

QUICK = ("--steps", 1, "--seed", 3, "--device", "cpu", "--no-preview")


def read(modality: str, file: str | Path) -> Any:
    record = MODALITIES[modality]
    (value,) = record.read(Path(file))
    return record.check(value)


def given(modality: str, values: dict[str, Any], folder: Path = Path("in")) -> str:
    """A value as an argument."""
    record = MODALITIES[modality]
    return values[modality] if record.form == "typed" else str(saved({modality: values[modality]}, folder)[modality])


@pytest.mark.parametrize(("data", "context"), FLOWS)
def test_a_value_in_and_a_value_out(
    versatile: Command, model: str, values: dict[str, Any], data: str, context: str
) -> None:
    task = TASK[data, context]
    done = versatile(task, given(context, values), "--model", model, "--out", "out", *QUICK, "--json")
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert told["task"] == task
    (made,) = _loaded(model).run(task, values[context], num_inference_steps=1, seed=3).values
    file = next(Path(name) for name in told["files"] if Path(name).suffix == MODALITIES[data].suffix)
    shown = MODALITIES[data].line(made) if MODALITIES[data].plain else made
    if shown:  # a model of random weights may say nothing
        assert same(data, read(data, file), shown)
    again = versatile("replay", file, "--out", "again", "--json")
    assert (again.code, json.loads(again.out)["identical"]) == (0, True), again.err


@cache
def _loaded(model: str) -> VersatileDiffusionPipeline:
    """The model as the command has it: weights in mapped files lie elsewhere than those of a model that was built, and
    the last bit of a product may depend on that."""
    pipe = VersatileDiffusionPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("name", ALL)
def test_a_folder(versatile: Command, model: str, values: dict[str, Any], name: str) -> None:
    for stem in ("a", "b"):
        saved({name: values[name]}, Path("in"), stem)
    Path("in/other.bin").touch()
    words = (TASK["sound", name], "in", "--model", model, "--out", "out", *QUICK, "--json")
    first, second = versatile(*words), versatile(*words)
    assert (first.code, second.code) == (0, 0), first.err + second.err
    rows = [json.loads(line) for line in second.out.splitlines()]
    assert [row["kept"] for row in rows] == [True, True]
    assert len(list(Path("out").glob("*.snd"))) == len(list(Path("out").glob("*.json"))) == 2


@pytest.mark.parametrize("name", ALL)
def test_stdin_and_stdout(
    versatile: Command, model: str, values: dict[str, Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = saved({name: values[name]}, Path("in"))[name].read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    out = io.TextIOWrapper(io.BytesIO())
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", out)
        done = versatile(TASK["sound", name], "-", "--model", model, "--out", "-", *QUICK)
    assert done.code == 0, done.err
    made = MODALITIES["sound"].check(out.buffer.getvalue())  # type: ignore[attr-defined]
    assert len(made.samples) == 64


def test_help_names_every_task(versatile: Command) -> None:
    text = versatile("--help").out
    assert all(task in text for task in TASK.values())
    text = " ".join(versatile("image-to-sound", "--help").out.split())
    assert "Generate sounds from images." in text
    assert "versatile image-to-sound apple.png --out - > sound.snd" in text
    assert "--temperature" not in text
    assert "--height" not in text


def test_everything_is_blended(versatile: Command, model: str, values: dict[str, Any]) -> None:
    inputs = [f"--{name}={given(name, values)}@{k + 1}" for k, name in enumerate(ALL)]
    done = versatile("blend", *inputs, "--to", "sound", "--model", model, "--out", "out", *QUICK)
    assert done.code == 0, done.err
    assert Path("out/blend-0001.snd").is_file()
    assert versatile("blend", *inputs, "--to", "smell").err.startswith("error: unknown --to 'smell'")


@pytest.mark.parametrize("name", ALL)
def test_a_sweep(versatile: Command, model: str, values: dict[str, Any], name: str) -> None:
    words = ("sweep", TASK[name, "sound"], given("sound", values), "--over", "seed=0:2", "--set", "steps=1")
    done = versatile(*words, "--model", model, "--out", "out", "--device", "cpu", "--no-preview")
    assert done.code == 0, done.err
    (file,) = Path("out").iterdir()
    assert file.suffix == (".json" if MODALITIES[name].draw is None else ".png")
    assert versatile("replay", file, "--out", "again").code == 0


def test_encode_and_decode(versatile: Command, model: str, values: dict[str, Any]) -> None:
    files = saved(values, Path("in"))
    for kind, more in (("latent", ()), ("context", ("--steps", 1))):
        done = versatile("encode", "in", "--as", kind, "--model", model, "--out", kind, "--device", "cpu", "--json")
        assert done.code == 0, done.err
        assert len(json.loads(done.out)["files"]) == len(ALL)
        for name in ALL:
            shutil.copy(f"{kind}/one.{name}-{kind}.safetensors", f"{name}-{kind}.safetensors")
            words = ("decode", f"{name}-{kind}.safetensors", "--model", model, "--out", f"{kind}-{name}", *more)
            assert versatile(*words, "--device", "cpu").code == 0
            (made,) = Path(f"{kind}-{name}").iterdir()
            assert made.suffix == files[name].suffix


def test_what_a_model_holds(versatile: Command, model: str) -> None:
    told = json.loads(versatile("describe", "--model", model, "--json").out)
    assert {*TASK.values()} <= set(json.dumps(told["tasks"]).replace('"', " ").replace(",", " ").split())
    done = versatile("verify", model, "--json")
    assert done.code in (0, 1), done.err


def test_mistakes(versatile: Command, model: str) -> None:
    Path("bad.snd").write_text("no sound")
    done = versatile("sound-to-image", "bad.snd", "--model", model, *QUICK)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "bad.snd cannot be read as a WAV file" in done.err
    assert "this model cannot" in versatile("text-to-sound", "a car", "--model", "emoji", *QUICK).err
