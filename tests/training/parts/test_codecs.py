"""Training of the image codec, on the small set of the tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from versatile_diffusion.modalities.image.lite_vae import LiteVAE
from versatile_diffusion.recipes.emoji.parts import images
from versatile_diffusion.training.engine.loop import LoopSettings, train
from versatile_diffusion.training.parts.codecs import (
    ImageCodecObjective,
    pictures_to_pixels,
    psnr,
)
from versatile_diffusion.training.parts.gaussian_codec import GaussianCodecSettings

DATA = Path(__file__).parents[2] / "data" / "emoji"


@pytest.fixture(scope="module")
def objective() -> ImageCodecObjective:
    pictures = images(DATA, "train", "concept-val", "concept-test")
    settings = GaussianCodecSettings(widths=(8, 8), batch_size=4)
    return ImageCodecObjective(pictures.pop("train"), pictures, settings, torch.device("cpu"))


def test_a_run_learns_and_exports_a_codec_with_latents_of_unit_variance(
    objective: ImageCodecObjective, tmp_path: Path
) -> None:
    with torch.no_grad():
        untrained = objective.evaluate(objective.build().eval())
    outcome = train(objective, LoopSettings(steps=12, warmup=2, ema=0.8), tmp_path)
    assert outcome.metrics.keys() == {"psnr/concept-val", "psnr/concept-test"}
    assert all(value > untrained[name] + 1 for name, value in outcome.metrics.items())
    codec = LiteVAE.from_pretrained(tmp_path / "export")
    with torch.no_grad():
        latents = codec.normalise(codec.posterior(pictures_to_pixels(objective.stored))[0])
    assert torch.allclose(latents.mean(dim=(0, 2, 3)), torch.zeros(4), atol=1e-3)
    assert torch.allclose(latents.std(dim=(0, 2, 3)), torch.ones(4), atol=1e-3)
    assert Image.open(tmp_path / "samples" / "0000012.png").size == (16 * 64, 4 * 64)


def test_a_batch_depends_on_its_generator_alone(objective: ImageCodecObjective) -> None:
    pixels, noise = objective.batch(0, torch.Generator().manual_seed(5))
    again = objective.batch(7, torch.Generator().manual_seed(5))
    assert torch.equal(pixels, again[0])
    assert torch.equal(noise, again[1])
    assert not torch.equal(noise, objective.batch(0, torch.Generator().manual_seed(6))[1])


def test_without_muon_there_is_one_optimizer(objective: ImageCodecObjective) -> None:
    plain = ImageCodecObjective.__new__(ImageCodecObjective)
    plain.recipe = replace(objective.recipe, muon_lr=None)
    assert len(plain.optimizers(objective.build())) == 1
    assert len(objective.optimizers(objective.build())) == 2


def test_psnr_of_a_known_error() -> None:
    left = torch.zeros(2, 3, 4, 4)
    assert torch.allclose(psnr(left, left + torch.tensor([0.1, 0.01])[:, None, None, None]), torch.tensor([20.0, 40.0]))
