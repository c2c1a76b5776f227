"""A saved picture can be made again, and is compared pixel by pixel."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import Command
from versatile_diffusion.sampling.metadata import read_record, save_png

FEW = ("--steps", 2, "--seed", 3)


@pytest.mark.parametrize("scheduler", ["ddim", "dpm++", "unipc"])
def test_it_is_the_same_bit_for_bit(versatile: Command, model: str, tmp_path: Path, scheduler: str) -> None:
    made = versatile("text-to-image", "a red äpple", "--count", 3, "--scheduler", scheduler, "--model", model, *FEW)
    second = made.out.split()[1]
    answer = versatile("replay", second)
    assert (answer.code, answer.out.split(":")[0]) == (0, "identical")
    again = tmp_path / "out" / f"{Path(second).stem}-replay.png"
    assert np.array_equal(np.asarray(Image.open(again)), np.asarray(Image.open(second)))
    assert read_record(Image.open(again)) == read_record(Image.open(second))


def test_a_grid_can_be_replayed(versatile: Command, model: str) -> None:
    versatile("text-to-image", "a", "--count", 2, "--model", model, *FEW)
    assert json.loads(versatile("replay", "out/grid.png", "--json").out)["identical"] is True


def test_captions_are_replayed(versatile: Command, model: str, apple: Path) -> None:
    versatile("image-to-text", apple, "--count", 2, "--mask", apple, "--out", "captions", "--model", model, *FEW)
    text, record = Path("captions/image-to-text-0001.txt"), Path("captions/image-to-text-0001.json")
    for file in (text, record):
        answer = versatile("replay", file)
        assert (answer.code, answer.out.split(":")[0]) == (0, "identical")
    changed = json.loads(record.read_text(encoding="utf-8")) | {"texts": ["something", "else"]}
    record.write_text(json.dumps(changed), encoding="utf-8")
    answer = json.loads(versatile("replay", record, "--json").out)
    assert answer == {"identical": False, "texts": text.read_text(encoding="utf-8").splitlines()}
    record.unlink()
    gone = versatile("replay", text)
    assert (gone.code, "no such file" in gone.err) == (2, True)


def test_matched_colours_are_replayed(versatile: Command, model: str, apple: Path) -> None:
    given = ("image-variation", apple, "--count", 2, "--model", model, *FEW)
    made = versatile(*given, "--match-colours", "simple").out.split()
    plain = versatile(*given).out.split()
    means = [np.asarray(Image.open(file), float).mean((0, 1)) for file in (made[0], plain[0], apple)]
    assert np.abs(means[0] - means[2]).max() < 12  # levels are cut at 0 and 255
    assert np.abs(means[0] - means[2]).max() < np.abs(means[1] - means[2]).max()
    for file in (made[1], made[2]):  # one picture, and the grid
        assert versatile("replay", file).code == 0
    refused = versatile(*given, "--match-colours", "oil")
    assert (refused.code, "allowed: simple, histogram" in refused.err) == (2, True)


def test_another_picture_is_found_out(versatile: Command, model: str) -> None:
    versatile("text-to-image", "a", "--model", model, *FEW)
    file = "out/text-to-image-0001.png"
    picture = Image.open(file)
    record = read_record(picture)
    picture.putpixel((0, 0), tuple(255 - level for level in picture.getpixel((0, 0))))
    save_png(picture, Path(file), record)
    answer = versatile("replay", file)
    assert (answer.code, answer.out.split(":")[0]) == (1, "different")


def test_the_input_picture_is_found_beside_and_checked(
    versatile: Command, model: str, apple: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    versatile("image-variation", "apple.png", "--out", ".", "--model", model, *FEW)
    file = tmp_path / "image-variation-0001.png"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    os.chdir(elsewhere)  # the fixture goes back
    assert versatile("replay", file).code == 0
    Image.new("RGB", (9, 9)).save(apple)
    changed = versatile("replay", file)
    assert (changed.code, "changed" in changed.err) == (2, True)
    apple.unlink()
    gone = versatile("replay", file)
    assert (gone.code, "gone" in gone.err) == (2, True)


def test_a_picture_from_elsewhere_is_refused(versatile: Command, apple: Path) -> None:
    answer = versatile("replay", apple)
    assert (answer.code, "holds no versatile_diffusion record" in answer.err) == (2, True)


def test_a_damaged_record_is_refused(versatile: Command, model: str, picture: Image.Image) -> None:
    whole = {"from_pretrained": model, "threads": 1, "model": {"name": "tiny"}}
    for other, told in (
        ({}, "made by model 'tiny'"),
        ({"threads": "two"}, "made with 'two' threads"),
        ({"model": [], "from_pretrained": ""}, "incomplete or damaged"),
        ({"schema": "1"}, "schema '1'"),
    ):
        save_png(picture, Path("odd.png"), whole | other)
        answer = versatile("replay", "odd.png")
        assert (answer.code, told in answer.err, answer.err.count("\n")) == (2, True, 1), answer.err
