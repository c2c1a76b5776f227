"""The dtype that a model computes in: as it is named, recorded, and found for a device."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from versatile_diffusion import VersatileDiffusionPipeline
from versatile_diffusion.pipeline import precision
from versatile_diffusion.pipeline.precision import LARGE, Precision, suitable_dtype

HALF = {"unet": "bfloat16", "bank": "float32"}


@pytest.fixture(scope="module")
def model(tiny_pipeline: VersatileDiffusionPipeline, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("model")
    tiny_pipeline.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize(
    ("units", "gain", "size", "expected"),
    [
        (True, 3.0, LARGE, torch.bfloat16),
        (True, 3.0, LARGE - 1, torch.float32),
        (True, 1.1, LARGE, torch.float32),
        (False, 3.0, LARGE, torch.float32),
    ],
)
def test_a_cpu_takes_bfloat16_where_it_has_it_and_gains(
    monkeypatch: pytest.MonkeyPatch, units: bool, gain: float, size: int, expected: torch.dtype
) -> None:
    monkeypatch.setattr(precision, "cpu_multiplies_bfloat16", lambda: units)
    monkeypatch.setattr(precision, "bfloat16_gain", lambda: gain)
    assert suitable_dtype("cpu", size) == expected


@pytest.mark.parametrize(("capability", "expected"), [((9, 0), torch.bfloat16), ((7, 5), torch.float16)])
def test_a_gpu_takes_what_it_can(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert suitable_dtype("cuda:0", LARGE) == expected
    assert suitable_dtype("cuda:0", LARGE - 1) == torch.float32


def test_the_probe_times_a_product_once() -> None:
    precision.bfloat16_gain.cache_clear()
    first = precision.bfloat16_gain(64, 1)
    assert first > 0
    assert precision.bfloat16_gain(64, 1) == first
    assert precision.bfloat16_gain.cache_info().hits == 1
    precision.bfloat16_gain.cache_clear()


@pytest.mark.parametrize("given", ["float32", "bfloat16", HALF])
def test_a_record_gives_the_same_again(given: object) -> None:
    assert Precision.of(given, lambda: torch.float16).record() == given


@pytest.mark.parametrize("given", ["int8", "nothing", 3, {"unet": "float32"}, {"unet": "int8", "bank": "float32"}])
def test_what_is_no_dtype_is_refused(given: object) -> None:
    with pytest.raises(ValueError, match="dtype is"):
        Precision.of(given, lambda: torch.float32)


def test_auto_is_for_the_diffuser_alone_and_a_replay_restores_it(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("versatile_diffusion.pipeline.models.suitable_dtype", lambda device, size: torch.bfloat16)
    pipe = VersatileDiffusionPipeline.from_pretrained(model, dtype="auto")
    assert (pipe.unet.dtype, next(pipe.bank.parameters()).dtype) == (torch.bfloat16, torch.float32)
    settings = json.loads(json.dumps(pipe.text_to_image("a", seed=0, num_inference_steps=2).settings))
    assert settings["model"]["dtype"] == HALF
    again = VersatileDiffusionPipeline.from_pretrained(model, dtype=settings["model"]["dtype"])
    assert again.replay(settings).settings == settings
    with pytest.raises(ValueError, match="load it with dtype="):
        VersatileDiffusionPipeline.from_pretrained(model).replay(settings)


def test_a_small_model_stays_in_float32(model: str) -> None:
    pipe = VersatileDiffusionPipeline.from_pretrained(model, dtype="auto", device="cpu")
    assert {p.dtype for part in (pipe.unet, pipe.bank) for p in part.parameters()} == {torch.float32}


def test_the_command_restores_it_too(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from versatile_diffusion.cli import main

    made = ["text-to-image", "a", "--model", model, "--steps", "2", "--seed", "0", "--out", str(tmp_path)]
    assert main([*made, "--dtype", "bfloat16"]) == 0
    (file,) = tmp_path.glob("*.png")
    assert main(["replay", str(file)]) == 0
