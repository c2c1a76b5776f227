"""`versatile doctor`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import Command
from versatile_diffusion import shipped
from versatile_diffusion.cli.io import extras
from versatile_diffusion.cli.verbs import doctor
from versatile_diffusion.version import __version__


@pytest.fixture
def one_model(monkeypatch: pytest.MonkeyPatch, model: str, tmp_path: Path) -> Path:
    copy = Path(shutil.copytree(model, tmp_path / "copy"))
    monkeypatch.setattr(shipped, "shipped_models", lambda: {"pocket": copy})
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return copy


def test_a_whole_installation(versatile: Command, one_model: Path) -> None:
    answer = versatile("doctor", "--json")
    told = json.loads(answer.out)
    assert answer.code == 0
    assert told["versions"]["versatile-diffusion"] == __version__
    assert {"torch", "diffusers", "typer"} <= told["versions"].keys()
    assert {"train", "data"} <= told["extras"].keys()
    assert str(one_model) in told["models"]["pocket"]
    assert "cpu" in told["devices"]
    assert not [one for one in told["problems"] if one["needed"]]
    shown = versatile("doctor")
    assert shown.code == 0
    assert shown.out.rstrip().endswith("everything required is installed")
    assert str(one_model) in shown.out, "nothing is cut"


def test_damaged_weights(versatile: Command, one_model: Path) -> None:
    weights = next((one_model / "unet").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    answer = versatile("doctor")
    assert answer.code == 1
    assert "broken: pocket: " in answer.out


def test_what_is_missing_or_broken(
    versatile: Command, one_model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    needed = ["typer>=0.1", "torch>=99", "nothing-of-that-name", "tiny-thing; extra == 'odd'", "x; extra == 'dev'"]
    monkeypatch.setattr(extras, "requires", lambda name: needed)
    monkeypatch.setattr(doctor, "LITTLE_SPACE", 10**18)
    answer = versatile("doctor", "--json")
    told = json.loads(answer.out)
    problems = {one["name"]: (one["problem"], one["needed"]) for one in told["problems"]}
    assert answer.code == 1
    assert problems["torch"] == ("torch>=99 is needed: pip install 'torch>=99'", True)
    assert problems["nothing-of-that-name"][1]
    assert (told["extras"], problems["odd"][1]) == ({"odd": "missing"}, False)
    assert "versatile-diffusion[odd]" in problems["odd"][0]
    assert "low disk space" in problems["here"][0]


def test_models_of_the_hub_are_found(versatile: Command, one_model: Path, tmp_path: Path) -> None:
    for owner, kind in (("ours--vd", "VersatileDiffusionPipeline"), ("other--sd", "StableDiffusionPipeline")):
        snapshot = tmp_path / "hub" / f"models--{owner}" / "snapshots" / "abc"
        snapshot.mkdir(parents=True)
        (snapshot / "model_index.json").write_text(json.dumps({"_class_name": kind}))
    told = json.loads(versatile("doctor", "--json").out)
    assert list(told["models"]) == ["pocket", "ours/vd", *shipped.OWN]


def test_a_missing_extra_is_named(versatile: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def build(*given: object, **more: object) -> None:
        raise ModuleNotFoundError("No module named 'resvg_py'", name="resvg_py")

    monkeypatch.setattr("versatile_diffusion.recipes.emoji.data.build_emoji", build)
    answer = versatile("data", "emoji", "--out", tmp_path)
    assert (answer.code, answer.err) == (
        2,
        "error: resvg_py is not installed: pip install 'versatile-diffusion[data]'\n",
    )
