"""Results that are saved in a folder, and read from it again."""

from __future__ import annotations

import json
import os
import tracemalloc
from datetime import date
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="gradio is not installed (extra 'ui')")

from PIL import Image

from versatile_diffusion.records.png import save_png
from versatile_diffusion.ui.page.gallery import side_by_side
from versatile_diffusion.ui.page.kept import INDEX, Kept, owner_of
from versatile_diffusion.ui.page.shelf import Made

ADA, BOB = owner_of("browser ada"), owner_of("browser bob")
DAY = date(2026, 11, 30)


def made(folder: Path, prompt: str, **settings: object) -> Made:
    folder.mkdir(exist_ok=True)
    file, record = folder / "text-to-image-0001.png", {"prompt": prompt, "seed": 7, **settings}
    save_png(Image.new("RGB", (8, 8), "red"), file, record)
    return Made("image", prompt, file, record)


def caption(folder: Path, text: str) -> Made:
    folder.mkdir(exist_ok=True)
    file = folder / "image-to-text-0001.json"
    file.write_text(json.dumps({"texts": [text]}), encoding="utf-8")
    return Made("text", text, file, {"texts": [text]})


def aged(file: Path, seconds: int) -> None:
    """Files of one test are written within a tick of the clock."""
    os.utime(file, (seconds, seconds))


def test_what_was_saved_is_read_again_after_a_restart(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "outputs", tmp_path / "cache")
    files = [kept.save(made(tmp_path / "shelf", "a red apple"), ADA, DAY) for _ in range(2)]
    files.append(kept.save(caption(tmp_path / "shelf", "a cat"), BOB, DAY))
    for second, file in enumerate(files):
        aged(file, second)
    names = ["image-to-text-0001.json", "text-to-image-0002.png", "text-to-image-0001.png"]
    again = Kept(tmp_path / "outputs", tmp_path / "other cache")
    entries = list(again.entries(ADA))
    assert [entry.name for entry in entries] == [f"2026-11-30/{name}" for name in names]
    assert [entry.made.text for entry in entries] == ["a cat", "a red apple", "a red apple"]
    assert [entry.made.data for entry in entries] == ["text", "image", "image"]
    assert entries[1].made.record["seed"] == 7
    assert [entry.owner for entry in entries] == [BOB, ADA, ADA]
    assert [entry.name for entry in again.entries(ADA, "own", "RED")] == [f"2026-11-30/{name}" for name in names[1:]]
    assert list(again.entries(ADA, search="green")) == []


def test_favourites_stay_and_deleted_files_go_with_their_copies(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "outputs", tmp_path / "cache")
    file = kept.save(made(tmp_path / "shelf", "a red apple"), ADA, DAY)
    (entry,) = kept.entries(ADA)
    kept.favour(entry, True)
    (entry,) = Kept(tmp_path / "outputs", tmp_path / "cache").entries(BOB, "favourites")
    assert entry.favourite
    copy = kept.shown(entry.made).file
    assert copy.read_bytes() == file.read_bytes()
    assert copy.is_relative_to(tmp_path / "cache")
    kept.delete(entry)
    assert not file.exists()
    assert not copy.exists()
    assert json.loads((tmp_path / "outputs" / INDEX).read_text())["files"] == {}
    assert list(kept.entries(ADA)) == []


def test_where_others_can_connect_everyone_sees_their_own(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "outputs", tmp_path / "cache", shared=False)
    kept.save(made(tmp_path / "shelf", "a red apple"), ADA, DAY)
    (entry,) = kept.entries(ADA)
    assert list(kept.entries(BOB)) == []
    assert kept.get(entry.name, BOB) is None
    assert kept.get(entry.name, ADA) == entry
    assert "ada" not in (tmp_path / "outputs" / INDEX).read_text()


def test_a_list_of_thousands_keeps_no_records_in_memory(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "outputs", tmp_path / "cache")
    for seed in range(4):
        kept.save(made(tmp_path / "shelf", "a red apple", seed=seed, extra=["x" * 100_000]), ADA, DAY)
    tracemalloc.start()
    try:
        assert len(list(kept.entries(ADA))) == 4
        assert tracemalloc.get_traced_memory()[0] < 50_000
        assert len(next(iter(kept.entries(ADA))).made.record["extra"][0]) == 100_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["../secret.png", "/etc/passwd", "", ".", INDEX, "2026-11-30/missing.png"])
def test_a_name_from_a_page_leads_nowhere_else(tmp_path: Path, name: str) -> None:
    kept = Kept(tmp_path / "outputs", tmp_path / "cache")
    kept.save(made(tmp_path / "shelf", "a red apple"), ADA, DAY)
    save_png(Image.new("RGB", (8, 8)), tmp_path / "secret.png", {"prompt": "x"})
    assert kept.get(name, ADA) is None


def test_files_of_others_and_a_damaged_index_do_no_harm(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "outputs", tmp_path / "cache")
    kept.save(made(tmp_path / "shelf", "a red apple"), ADA, DAY)
    Image.new("RGB", (8, 8)).save(tmp_path / "outputs" / "photo.png")
    (tmp_path / "outputs" / "notes.json").write_text("[1, 2")
    (tmp_path / "outputs" / INDEX).write_text('{"files": 3}')
    assert [entry.made.text for entry in kept.entries(ADA)] == ["a red apple"]
    (entry,) = kept.entries(ADA)
    kept.favour(entry, True)
    assert [entry.favourite for entry in kept.entries(ADA)] == [True]


def test_a_comparison_shows_the_settings_that_differ(tmp_path: Path) -> None:
    kept = Kept(tmp_path / "outputs", tmp_path / "cache")
    for seed in (1, 2):
        kept.save(made(tmp_path / "shelf", "<b>apple</b>", seed=seed), ADA, DAY)
    told = side_by_side(list(kept.entries(ADA)))
    assert told.count("<img") == 2
    assert "<th>Seed</th>" in told
    assert "<th>Prompt</th>" not in told
    assert "<b>" not in told
