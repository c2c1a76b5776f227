"""The worked example, on a model of random weights: what it claims of the method does not need a good one."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image

from versatile_diffusion import load_embeddings
from versatile_diffusion.recipes.emoji.data import EmojiSet

ROOT = Path(__file__).parents[2]
EMOJI = ROOT / "tests" / "data" / "emoji"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    specification = importlib.util.spec_from_file_location("brain_decoding", ROOT / "examples" / "brain_decoding.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["brain_decoding"] = module
    specification.loader.exec_module(module)
    return module


def stimuli(example: ModuleType, pipe: Any, count: int, seed: int) -> Any:
    """Embeddings of the model's shapes in which six things vary, as pictures of some kind would have them."""
    factors = torch.randn(count, 6, generator=_numbers(seed))
    blank = Image.new("RGB", (16, 16))
    real = {"image tokens": pipe.encode_context(blank), "text tokens": pipe.encode_context("a dog")}
    embeddings = {
        name: torch.einsum("nf,f...->n...", factors, torch.randn(6, *one.shape, generator=_numbers(7)))
        for name, one in (real | {"latent": pipe.encode_latent(blank)}).items()
    }
    return example.Stimuli([blank] * count, ["a dog"] * count, embeddings)


def _numbers(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_what_was_seen_is_found_in_the_signals(example: ModuleType, tiny_pipeline: Any, tmp_path: Path) -> None:
    train, test = stimuli(example, tiny_pipeline, 120, 0), stimuli(example, tiny_pipeline, 20, 1)
    options = {"made": 3, "shown": 2, "voxels": 100, "num_inference_steps": 2}
    measured = example.experiment(tiny_pipeline, train, test, tmp_path, noise=0.5, **options)
    for name in example.TARGETS:
        row = measured[name]
        assert row["correlation"] > 0.9, name
        assert row["identification"] > 0.9, name
        assert 0.2 < row["control"] < 0.8, name
    assert Image.open(tmp_path / "sheet.png").size == (2 * 194 - 2, 3 * 194 - 2)
    predicted = load_embeddings(tmp_path / "predicted.text-context.safetensors", tiny_pipeline)
    assert (len(predicted), predicted.names, predicted.normalisation) == (20, tuple(test.captions), "none")
    lost = example.experiment(tiny_pipeline, train, test, tmp_path, noise=1000.0, **options)
    assert all(lost[name]["correlation"] < 0.5 for name in example.TARGETS)


def test_ridge_is_the_closed_form(example: ModuleType) -> None:
    source = torch.Generator().manual_seed(0)
    signals, target = torch.randn(30, 5, generator=source), torch.randn(30, 2, 3, generator=source)
    x = (signals - signals.mean(0)) / signals.std(0)
    y = target.flatten(1) - target.flatten(1).mean(0)
    wide, right = torch.cat([x, (0.2 * 30) ** 0.5 * torch.eye(5)]), torch.cat([y, torch.zeros(5, 6)])
    weights = torch.linalg.lstsq(wide, right).solution  # the same minimum, by another way
    expected = (x @ weights + target.flatten(1).mean(0)).reshape(target.shape)
    assert torch.allclose(example.Ridge.fit(signals, 0.2).predict(signals, target), expected, atol=1e-4)


def test_measures(example: ModuleType) -> None:
    values = torch.randn(20, 7, generator=torch.Generator().manual_seed(0))
    assert example.correlation(3 * values + 1, values) == pytest.approx(1, abs=1e-4)
    assert example.identification(2 * values, values) == 1
    assert example.identification(-values, values) == 0
    assert example.identification(torch.ones(20, 7), values) == 0.5


def test_the_command_writes_its_numbers(
    example: ModuleType, tiny_pipeline: Any, tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    monkeypatch.setattr(example.EmojiSet, "load", lambda folder, split, load=EmojiSet.load: load(EMOJI, "train"))
    monkeypatch.setattr(example.VersatileDiffusionPipeline, "from_pretrained", lambda name: tiny_pipeline)
    example.main(
        EMOJI, tmp_path / "new", train=40, test=6, made=3, shown=2, voxels=50, steps=1, noise=1.0, seed=0, model="x"
    )
    measured = json.loads((tmp_path / "new" / "measured.json").read_text(encoding="utf-8"))["measured"]
    assert set(measured) == {*example.TARGETS, "latents alone", "reconstructions"}
    printed = capsys.readouterr().out
    assert f"{measured['latent']['correlation']:.3f}" in printed
    docs = tmp_path / "docs"
    for folder in ("images", "guides"):
        (docs / folder).mkdir(parents=True)
    guide = docs / "guides" / "brain_decoding.md"
    guide.write_text("before\n<!-- measured -->\nold\n<!-- end -->\nafter\n", encoding="utf-8")
    page_maker(monkeypatch).renew(tmp_path / "new", docs)
    page = guide.read_text(encoding="utf-8")
    assert page.startswith("before\n<!-- measured -->\n```\n")
    assert page.endswith("processor time.\n<!-- end -->\nafter\n")
    assert "old" not in page
    assert example.table(measured) in page
    assert Image.open(docs / "images" / "brain-decoding.jpg").width == 1033


def page_maker(monkeypatch: Any) -> ModuleType:
    """The script that puts the numbers into the docs."""
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("make_brain_decoding")
