"""A finished run becomes a folder to ship."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny import build_tiny_pipeline

from versatile_diffusion.pipeline.pipeline import VersatileDiffusionPipeline
from versatile_diffusion.recipes.emoji import ship as module
from versatile_diffusion.recipes.emoji.ship import ship

FIXTURE = Path(__file__).parents[2] / "data" / "emoji"


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
    with pytest.raises(ValueError, match="finish its training"):
        ship(tmp_path, FIXTURE, tmp_path / "weights")


def test_a_file_that_is_too_large_leaves_what_was_there(run: Path, tmp_path: Path, monkeypatch) -> None:
    ship(run, FIXTURE, tmp_path / "weights")
    monkeypatch.setattr(module, "LARGEST_FILE", 10_000)
    before = sorted(path.name for path in (tmp_path / "weights").rglob("*"))
    with pytest.raises(ValueError, match="larger than"):
        ship(run, FIXTURE, tmp_path / "weights")
    assert sorted(path.name for path in (tmp_path / "weights").rglob("*")) == before


def test_weights_are_rounded_to_seven_bits_and_paths_are_forgotten(run: Path, tmp_path: Path) -> None:
    ship(run, FIXTURE, tmp_path / "weights")
    before, after = (
        VersatileDiffusionPipeline.from_pretrained(folder).unet.state_dict()
        for folder in (run / "export", tmp_path / "weights")
    )
    for name, weight in after.items():
        assert torch.allclose(weight, before[name], rtol=2**-6, atol=2**-20), name
        fraction, _ = torch.frexp(weight)
        assert torch.equal(fraction * 2**7, (fraction * 2**7).round()) or weight.abs().min() < 2**-14, name  # subnormal
    assert not any("_name_or_path" in file.read_text() for file in (tmp_path / "weights").rglob("*.json"))
