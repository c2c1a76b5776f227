"""Saving, loading and finding models."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import versatile_diffusion
from versatile_diffusion import VersatileDiffusionPipeline, shipped
from versatile_diffusion.interop.verify import verify
from versatile_diffusion.pipeline import models

FAST: dict[str, Any] = {"num_inference_steps": 2, "seed": 0}


@pytest.fixture(scope="module")
def folder(tiny_pipeline: Any, tmp_path_factory: Any) -> Path:
    path = tmp_path_factory.mktemp("models") / "tiny"
    tiny_pipeline.save_pretrained(path)
    return path


def loaded(name: str | Path, **options: Any) -> VersatileDiffusionPipeline:
    pipe = VersatileDiffusionPipeline.from_pretrained(name, **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_round_trip(tiny_pipeline: Any, folder: Path) -> None:
    pipe = loaded(folder)
    for method, value in (("text_to_image", "a dog"), ("text_variation", "a dog")):
        before, after = (getattr(p, method)(value, style="noto", **FAST) for p in (tiny_pipeline, pipe))
        assert torch.equal(before.latents, after.latents)
    assert before.texts == after.texts
    assert after.settings["model"]["name"] == "tiny"
    assert after.settings["model"]["fingerprint"] == before.settings["model"]["fingerprint"]


def test_files_name_the_package_not_its_modules(folder: Path) -> None:
    """Guards the entry in diffusers' table: without it the files name modules, and moving a file would break them."""
    index = json.loads((folder / "model_index.json").read_text())
    assert index["unet"] == ["versatile_diffusion", "MultiFlowUNet"]
    assert index["bank"] == ["versatile_diffusion", "ModalityBank"]
    assert index["scheduler"] == ["versatile_diffusion", "OfficialDDIMScheduler"]
    assert index["styles"] == {"noto": "noto style", "fluent": "fluent style"}


def test_scheduler_config_survives(tiny_pipeline: Any, tmp_path: Path) -> None:
    from versatile_diffusion.sampling.schedulers import SCHEDULERS

    parts = {**tiny_pipeline.components, "scheduler": SCHEDULERS["ddim"](prediction_type="v_prediction")}
    VersatileDiffusionPipeline(**parts).save_pretrained(tmp_path)
    scheduler = loaded(tmp_path).scheduler
    assert scheduler.config.prediction_type == "v_prediction"
    assert scheduler.config.clip_sample is False


def test_half_on_disk_is_full_in_memory(tmp_path: Path) -> None:
    from tiny import build_tiny_pipeline

    build_tiny_pipeline().to(torch.float16).save_pretrained(tmp_path)
    pipe = loaded(tmp_path)
    weights = [*pipe.unet.parameters(), *pipe.bank.parameters()]
    assert {weight.dtype for weight in weights} == {torch.float32}
    assert all(torch.equal(weight, weight.half().float()) for weight in weights)
    assert pipe.text_to_image("a dog", **FAST).images[0].size == (16, 16)


@pytest.mark.slow
def test_a_fresh_process_loads_it(folder: Path) -> None:
    """Nothing but the package is imported there, as for a user."""
    code = (
        "from versatile_diffusion import VersatileDiffusionPipeline as P; import sys;"
        "print([t.name for t in P.from_pretrained(sys.argv[1]).tasks()])"
    )
    run = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    assert "'text-to-image', 'image-variation'" in run.stdout


def test_shipped_models_are_found_by_name(folder: Path, monkeypatch: Any) -> None:
    monkeypatch.setitem(sys.modules, "brings_a_model", type(sys)("brings_a_model"))
    sys.modules["brings_a_model"].FOLDER = folder  # type: ignore[attr-defined]
    point = EntryPoint("pocket", "brings_a_model:FOLDER", shipped.MODELS_GROUP)
    monkeypatch.setattr(shipped, "entry_points", lambda group: [point] if group == shipped.MODELS_GROUP else [])
    assert shipped.shipped_models()["pocket"] == folder
    assert loaded("pocket").model_name == "pocket"


def test_a_checkout_counts_too(folder: Path, monkeypatch: Any, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "pocket" / "src" / "weights")
    monkeypatch.setattr(shipped, "CHECKOUT", tmp_path)
    monkeypatch.setattr(shipped, "entry_points", lambda group: [])
    assert models.find_model("pocket") == str(tmp_path / "pocket" / "src" / "weights")


def test_unknown_models(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(shipped, "shipped_models", lambda: {"emoji": tmp_path})
    with pytest.raises(ValueError, match="unknown model 'nonsense'; allowed: emoji; else"):
        models.find_model("nonsense")
    with pytest.raises(ValueError, match=r"no checkpoint of a diffuser .*Supported: checkpoints .*our layout"):
        loaded(tmp_path)
    assert models.find_model("owner/name") == "owner/name"


def test_a_hub_id_is_fetched(folder: Path, monkeypatch: Any) -> None:
    asked: dict[str, Any] = {}

    def fetch(name: str, **options: Any) -> str:
        asked.update(options, name=name)
        return str(folder)

    monkeypatch.setattr(models, "snapshot_download", fetch)
    assert loaded("owner/name", revision="fp16").model_name == "name"
    assert asked == {"name": "owner/name", "revision": "fp16"}


def test_top_level_names_exist() -> None:
    for name in versatile_diffusion.__all__:
        assert getattr(versatile_diffusion, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        versatile_diffusion.Nonsense  # noqa: B018


def test_importing_the_package_is_quick() -> None:
    """Heavy libraries are imported when a name is first asked for; the command line relies on it."""
    code = "import versatile_diffusion, sys; print(*{'torch', 'diffusers', 'transformers', 'numpy'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == ""


def asked_of_the_hub(monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[tuple[str, dict[str, Any]]]:
    """Stands in for the hub; what it was asked for."""
    asked: list[tuple[str, dict[str, Any]]] = []

    def snapshot(name: str, **options: Any) -> str:
        asked.append((name, options))
        return str(folder)

    monkeypatch.setattr(models, "snapshot_download", snapshot)
    return asked


def test_what_is_fetched_can_be_pinned(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = asked_of_the_hub(monkeypatch, folder)
    loaded("owner/name", revision="abc123")
    assert loaded("owner/name@refs/pr/1").model_name == "1"
    loaded("owner/name")
    assert asked == [
        ("owner/name", {"revision": "abc123"}), ("owner/name", {"revision": "refs/pr/1"}), ("owner/name", {})
    ]  # fmt: skip
    with pytest.raises(ValueError, match="two revisions"):
        loaded("owner/name@one", revision="two")
    assert models.pin_revision("owner/name", "abc123") == "owner/name@abc123"
    for name, revision in (("emoji", "a"), (str(folder), "a"), ("owner/name", "a b"), ("owner/name@a", "b")):
        with pytest.raises(ValueError, match="applies to hub ids"):
            models.pin_revision(name, revision)


def test_the_model_of_a_record(folder: Path) -> None:
    for name in ("emoji", str(folder)):
        assert models.model_of_record({"from_pretrained": name}) == name
        assert models.model_of_record({"model": {"name": name}}) == name
    elsewhere = [
        "owner/name",
        "owner/name@abc",
        "//host/share",
        "\\\\host\\share",
        "/\\host/x",
        "https://host/x",
        "a\0b",
    ]
    for name in (*elsewhere, str(folder / "none"), "", None, 5, [], {}):
        with pytest.raises(ValueError, match="--model"):
            models.model_of_record({"from_pretrained": name})


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("model_index.json", {"unet": ["antigravity", "MultiFlowUNet"]}),
        ("model_index.json", {"scheduler": "x"}),
        ("model_index.json", {"styles": {"noto": 5}}),
        ("model_index.json", {"defaults": [1]}),
        ("model_index.json", {"defaults": {"text-to-image": 5}}),
        ("bank/bank.json", {"parts": {"codec-image": 5}}),
        ("bank/bank.json", {"parts": {"../unet": "LiteVAE"}}),
        ("bank/bank.json", {"parts": {"codec-text": "LiteVAE"}}),
        ("bank/encoder-text/config.json", {"heads": 0}),
        ("bank/encoder-image/config.json", {"width": [1]}),
        ("unet/config.json", {"width": 1e9}),
        ("unet/config.json", {"heads": None}),
        ("scheduler/scheduler_config.json", {"beta_schedule": "none"}),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": -3}),
    ],
)
@pytest.mark.parametrize("on_use", [False, True])
def test_damaged_configurations_are_one_sentence_with_the_path(
    folder: Path, tmp_path: Path, file: str, change: dict[str, Any], on_use: bool
) -> None:
    changed = shutil.copytree(folder, tmp_path / "m") / file
    changed.write_text(json.dumps(json.loads(changed.read_text()) | change))
    with pytest.raises(ValueError, match=str(tmp_path / "m")) as caught:
        VersatileDiffusionPipeline.from_pretrained(tmp_path / "m", on_use=on_use)
    assert "\n" not in str(caught.value)
    assert not verify(tmp_path / "m", numbers=False).ok


@pytest.mark.parametrize("on_use", [False, True])
def test_weights_that_are_not_those_of_the_configuration(folder: Path, tmp_path: Path, on_use: bool) -> None:
    """diffusers alone would leave what is missing without numbers, and only say so in its log."""
    file = shutil.copytree(folder, tmp_path / "m") / "bank" / "encoder-text" / "diffusion_pytorch_model.safetensors"
    state = load_file(file)
    lost = sorted(state)[0]
    for changed, said in (({lost: None}, f"{lost} is missing"), ({"odd": torch.ones(1)}, "odd is unknown")):
        save_file({name: value for name, value in {**state, **changed}.items() if value is not None}, file)
        with pytest.raises(ValueError, match=f"do not fit the configuration: {said}"):
            VersatileDiffusionPipeline.from_pretrained(tmp_path / "m", on_use=on_use)


@pytest.mark.parametrize("on_use", [False, True])
def test_shards_elsewhere_are_not_read(folder: Path, tmp_path: Path, on_use: bool) -> None:
    unet = shutil.copytree(folder, tmp_path / "m") / "unet"
    file = unet / "diffusion_pytorch_model.safetensors"
    places = dict.fromkeys(load_file(file), "../elsewhere.safetensors")
    file.rename(tmp_path / "m" / "elsewhere.safetensors")
    index = unet / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    with pytest.raises(ValueError, match=r"index\.json refers to '\.\./elsewhere\.safetensors'"):
        VersatileDiffusionPipeline.from_pretrained(tmp_path / "m", on_use=on_use)
