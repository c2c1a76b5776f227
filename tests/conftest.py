"""Fixtures for every test."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

# As many processes run at once as there are cores: each has one thread, and so has what it starts. This must be told
# before anything that computes is loaded.
for _library in ("OMP", "MKL", "OPENBLAS"):
    os.environ.setdefault(f"{_library}_NUM_THREADS", "1")

import numpy as np  # noqa: E402
import pytest  # noqa: E402
from PIL import Image  # noqa: E402

if TYPE_CHECKING:
    from versatile_diffusion import VersatileDiffusionPipeline


ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def reference() -> Path:
    """The folder named by VERSATILE_REFERENCE, else the whole set beside the repository, else the part kept in it."""
    named = os.environ.get("VERSATILE_REFERENCE")
    places = [Path(named)] if named else [ROOT.parent / "shared" / "reference", ROOT / "tests" / "data" / "reference"]
    return next(place for place in places if place.is_dir())


@pytest.fixture(scope="session")
def manifest(reference: Path) -> dict[str, Any]:
    """Names and shapes of every entry of the full-size model."""
    return json.loads((reference / "manifest-official.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a model of random weights."""
    from tiny import build_tiny_pipeline

    folder = tmp_path_factory.mktemp("model")
    build_tiny_pipeline().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_pipeline() -> VersatileDiffusionPipeline:
    """A whole model of random weights that does every task; shared, so leave it as it is."""
    from tiny import build_tiny_pipeline

    return build_tiny_pipeline()


@pytest.fixture
def idle_pipeline(
    tiny_pipeline: VersatileDiffusionPipeline, monkeypatch: pytest.MonkeyPatch
) -> VersatileDiffusionPipeline:
    """`tiny_pipeline`, which fails the test as soon as it encodes a context or predicts noise."""

    def heavy(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("heavy work began")

    for encoder in tiny_pipeline.bank.encoders.values():
        monkeypatch.setattr(encoder, "encode", heavy)
    monkeypatch.setattr(type(tiny_pipeline.unet), "forward", heavy)
    return tiny_pipeline


@pytest.fixture
def picture() -> Image.Image:
    """An RGB picture of 24 x 20 pixels."""
    levels = np.random.default_rng(0).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    return Image.fromarray(levels)
