"""The gallery, built with a model of random weights: that every part of it runs, and what the page says of it."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

SCRIPTS = Path(__file__).parents[2] / "scripts"
NAMES = ("automobile", "cactus", "ice-cream", "smiling-face", "tiger-face", "whale")
STEPS = {"num_inference_steps": 1}


@pytest.fixture
def gallery(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The three modules of the script."""
    monkeypatch.syspath_prepend(SCRIPTS)
    names = ("gallery_page", "gallery_entries", "make_gallery")
    return SimpleNamespace(**{name: importlib.import_module(name) for name in names})


def noise(seed: int, side: int = 16) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


@pytest.mark.slow
def test_every_part_runs_and_stands_on_the_page(gallery: SimpleNamespace, tmp_path: Path) -> None:
    from tiny import build_tiny_pipeline

    pipe = build_tiny_pipeline()
    pipe.register_to_config(defaults={task.name: STEPS for task in pipe.tasks()})
    entries, given = gallery.gallery_entries.ENTRIES, {name: str(tmp_path / f"{name}.png") for name in NAMES}
    for seed, file in enumerate(given.values()):
        noise(seed).save(file)
    made = list(gallery.make_gallery.build(pipe, tmp_path, given, {"a mouse": noise(9)}))
    page = (tmp_path / "gallery.md").read_text(encoding="utf-8")

    assert [name for name, _, _ in made] == [entry.name for entry in entries]
    assert re.findall(r"^## (.+)$", page, re.MULTILINE) == [*(entry.title for entry in entries), "Measurements"]
    pictures = re.findall(r"!\[.+\]\((.+webp)\)", page)
    assert len(set(pictures)) == len(entries) - 1, "all but what is refused"
    for picture in pictures:
        with Image.open(tmp_path / picture) as image:
            assert image.width > 128
    # What the page claims to the bit holds for any model.
    assert "The left half is bit-identical in 4 of 4 images." in page
    assert "replayed: the same" in page


def test_the_code_on_the_page_is_what_runs(gallery: SimpleNamespace) -> None:
    def part(pipe: Any, picture: Any) -> Any:
        """What it is."""
        image = picture["whale"]
        return gallery.gallery_page.Shown([image], ["it"])

    entry = gallery.gallery_page.Entry("A part", part, "versatile demo")
    assert entry.code() == 'image = picture["whale"]'
    page = entry.markdown(part(None, {"whale": noise(0)}), "whale.webp")
    order = ["## A part", "What it is.", "```python", 'picture["whale"]', "versatile demo", "![A part](whale.webp)"]
    places = [page.index(text) for text in order]
    assert places == sorted(places)


def test_small_pictures_stand_on_white(gallery: SimpleNamespace) -> None:
    black = Image.new("RGB", (64, 64))
    wide = Image.new("RGB", (128, 64))
    sheet = np.asarray(gallery.gallery_page.Shown([black, wide], ["", ""]).sheet())
    assert (sheet[-20, [10, 100]] == 255).all()
    assert (sheet[-20, [40, 64, 140, 250]] == 0).all()


def test_what_cannot_be_built_is_said(gallery: SimpleNamespace, tiny_pipeline: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no entry 'fireworks'; choose from: mixing, weights"):
        list(gallery.make_gallery.build(tiny_pipeline, tmp_path, {}, {}, only=["fireworks"]))
    with pytest.raises(ValueError, match="1 images for 1 x 2 labels"):
        gallery.gallery_page.Shown([noise(0)], ["one", "two"]).sheet()


def test_only_the_parts_asked_for(gallery: SimpleNamespace, tiny_pipeline: Any, tmp_path: Path) -> None:
    made = list(gallery.make_gallery.build(tiny_pipeline, tmp_path, {}, {}, only=["styles", "held-out"]))
    assert [name for name, _, _ in made] == ["styles"]  # there are no held-out pictures
    assert {file.name for file in tmp_path.rglob("*.webp")} == {"styles.webp"}
