"""The library by itself, without the emoji model: every way to it says so in one line, and what to do."""

from __future__ import annotations

import json
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import Command
from versatile_diffusion import VersatileDiffusionPipeline, shipped

DATA = Path(__file__).parents[1] / "data" / "emoji"
SAID = "the emoji model is not installed"
REMEDY = "`pip install ./models/emoji`"
COMMANDS = {
    "text-to-image": ("a red apple",),
    "image-variation": ("apple.png",),
    "image-to-text": ("apple.png",),
    "text-variation": ("a red apple",),
    "dual-guided": ("a red apple", "apple.png"),
    "blend": ("--text", "a red apple"),
    "disentangle": ("apple.png",),
    "edit": ("apple.png",),
    "joint": (),
    "sweep": ("text-to-image", "a red apple", "--over", "seed=0,1"),
    "generate-many": ("--input", "prompts.csv", "--out", "many"),
    "upload": ("emoji", "--to", "ada/emoji"),
    "encode": ("apple.png", "--as", "latent", "--out", "latents"),
    "describe": ("--model", "emoji"),
    "verify": ("emoji",),
    "convert": ("emoji", "out", "--to", "official"),
    "train": ("--from", "emoji", "--data", "pictures", "--out", "run"),
    "evaluate": ("--data", DATA),
    "data": ("encode", "pictures", "--out", "encoded"),
    "ui": (),
    "serve": (),
    "demo": (),
}


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As in an environment that only has the wheel of the library."""
    monkeypatch.setattr(shipped, "CHECKOUT", None)
    monkeypatch.setattr(shipped, "entry_points", lambda group: [])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.parametrize("verb", COMMANDS)
def test_every_command_says_so_in_one_line(verb: str, alone: None, versatile: Command) -> None:
    if extra := {"ui": "gradio", "serve": "fastapi"}.get(verb):
        pytest.importorskip(extra)
    Path("pictures").mkdir()
    for name, colour in (("apple", "red"), ("pear", "green")):
        Image.new("RGB", (16, 16), colour).save(f"{name}.png")
        Image.new("RGB", (16, 16), colour).save(f"pictures/{name}.png")
        Path(f"pictures/{name}.txt").write_text(f"a {colour} {name}")
    answer = versatile(verb, *COMMANDS[verb])
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.count("\n") == 1
    assert SAID in answer.err
    assert REMEDY in answer.err


@pytest.mark.parametrize("option", ["encoders", "features"])
def test_so_do_options_that_name_a_model(option: str, alone: None, versatile: Command, model: str) -> None:
    small = ("--count", 1, "--steps", 1, "--split", "pair-test", "--device", "cpu")
    answer = versatile("evaluate", "--model", model, "--data", DATA, *small, f"--{option}", "emoji")
    assert answer.code == 2
    assert SAID in answer.err


def test_python_says_so_too(alone: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("emoji").mkdir()  # a folder of that name that holds no model, such as a data set, is not meant
    with pytest.raises(ValueError, match=SAID):
        VersatileDiffusionPipeline.from_pretrained("emoji")


def test_the_doctor_finds_it(alone: None, versatile: Command) -> None:
    told = json.loads(versatile("doctor", "--json").out)
    assert told["models"] == dict.fromkeys(shipped.OWN, "not installed")
    (problem,) = (one for one in told["problems"] if one["name"] == "emoji")
    assert problem["needed"]
    assert SAID in problem["problem"]
    shown = versatile("doctor")
    assert shown.code == 1
    assert "everything required is installed" not in shown.out
    assert REMEDY in shown.out


def test_with_another_model_it_is_a_remark(
    alone: None, versatile: Command, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = EntryPoint("pocket", "brings_a_model:FOLDER", shipped.MODELS_GROUP)
    monkeypatch.setitem(sys.modules, "brings_a_model", type(sys)("brings_a_model"))
    sys.modules["brings_a_model"].FOLDER = Path(model)  # type: ignore[attr-defined]
    monkeypatch.setattr(shipped, "entry_points", lambda group: [point])
    shown = versatile("doctor")
    assert shown.code == 0
    assert f"remark: emoji: {SAID}" in shown.out


def test_a_distribution_without_its_files_is_damaged(
    alone: None, versatile: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    gone = EntryPoint("gone", "no_module_of_that_name:path", shipped.MODELS_GROUP)
    empty = EntryPoint("empty", "os:getcwd", shipped.MODELS_GROUP)  # a folder, and no model in it
    monkeypatch.setattr(shipped, "entry_points", lambda group: [gone, empty])
    assert shipped.shipped_models() == {}
    shown = versatile("doctor")
    assert shown.code == 1
    assert "broken: gone: its distribution is installed, but files are missing" in shown.out
    assert "broken: empty: " in shown.out
    assert SAID in versatile("text-variation", "a dog").err


def test_only_a_checkout_has_models_beside_its_source() -> None:
    assert Path(__file__).parents[2] / "models" == shipped.CHECKOUT
