"""A finished run becomes a folder to ship."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import build_tiny_pipeline

from versatile_diffusion.sampling.pipeline import VersatileDiffusionPipeline
from versatile_diffusion.training import ship as module
from versatile_diffusion.training.ship import ship

FIXTURE = Path(__file__).parents[1] / "data" / "emoji"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    build_tiny_pipeline().save_pretrained(tmp_path / "run" / "export")
    return tmp_path / "run"


def test_what_is_shipped_is_small_and_works(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "weights"
    ship(run, FIXTURE, out)
    first = VersatileDiffusionPipeline.from_pretrained(out)
    assert first.unet.dtype == torch.float32
    assert "noto" in first.config.styles
    assert first.config.defaults == module.DEFAULTS
    assert sum(p.numel() for p in first.unet.parameters()) * 2 == pytest.approx(
        sum(path.stat().st_size for path in (out / "unet").glob("*.safetensors")), rel=0.1
    )
    picture = first.text_to_image("red apple", style="noto", num_inference_steps=2, seed=0).images[0]
    ship(run, FIXTURE, out)
    again = VersatileDiffusionPipeline.from_pretrained(out).text_to_image(
        "red apple", style="noto", num_inference_steps=2, seed=0
    )
    assert picture.tobytes() == again.images[0].tobytes()


def test_a_run_that_is_not_finished(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="train it to its end"):
        ship(tmp_path, FIXTURE, tmp_path / "weights")


def test_a_file_that_is_too_large_leaves_what_was_there(run: Path, tmp_path: Path, monkeypatch) -> None:
    ship(run, FIXTURE, tmp_path / "weights")
    monkeypatch.setattr(module, "LARGEST_FILE", 10_000)
    before = sorted(path.name for path in (tmp_path / "weights").rglob("*"))
    with pytest.raises(ValueError, match="larger than"):
        ship(run, FIXTURE, tmp_path / "weights")
    assert sorted(path.name for path in (tmp_path / "weights").rglob("*")) == before
