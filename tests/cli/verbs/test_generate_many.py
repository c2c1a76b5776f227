"""`versatile generate-many`: what it takes, and what it reports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.conftest import Command

FEW = ("--steps", 1)


@pytest.fixture
def table(versatile: Command) -> Path:
    file = Path("prompts.csv")
    file.write_text("prompt,style\na red apple,\na cat,none\n")
    return file


def test_it_reports_and_keeps_what_is_done(versatile: Command, table: Path, model: str) -> None:
    """The seed that was drawn stays that of the folder, and failed rows are no reason to do the others again."""
    asked = ("generate-many", "--input", table, "--out", "many", "--model", model, *FEW)
    first = versatile(*asked, "--json")
    told = json.loads(first.out)
    assert (first.code, told["items"], told["failed"], told["kept"]) == (1, 1, {"invalid rows": 1}, 0)
    again = versatile(*asked, "--json")
    assert json.loads(again.out) == {**told, "kept": 2}
    plain = versatile(*asked)
    assert "2 rows of an earlier run are kept" in plain.err
    assert "many/*.failed.jsonl" in plain.err
    assert plain.out.splitlines()[1].split() == ["items", "1", "of", "1", "rows", "in", "1", "shards"]
    other = versatile(*asked, "--seed", told["seed"] + 1)
    assert (other.code, other.out) == (2, "")
    assert "begun with other settings (seed)" in other.err


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("--task", "image-to-image"), "image-variation"),
        (("--format", "zip"), "webdataset, parquet"),
        (("--temperature", 1), "--temperature is no option of text-to-image"),
        (("--mask", "apple.png"), "--mask is no option of text-to-image"),
        (("--guidance-interval", "2:1"), "guidance_interval"),
        (("--input", "nothing.csv"), "nothing.csv: no such file"),
        (("--input", "apple.png"), "must end in .parquet, .csv"),
        (("--input", "words.csv"), "needs one of text, prompt"),
        (("--input", "empty.jsonl"), "empty.jsonl"),
        (("--style", "none"), "none"),
    ],
)
def test_mistakes_are_found_before_anything_is_done(
    versatile: Command, table: Path, model: str, asked: tuple[object, ...], said: str
) -> None:
    Image.new("RGB", (8, 8)).save("apple.png")
    Path("words.csv").write_text("words\na cat\n")
    Path("empty.jsonl").write_text("")
    answer = versatile("generate-many", "--input", table, "--out", "many", "--model", model, *FEW, *asked)
    assert (answer.code, answer.out) == (2, "")
    assert said in answer.err
    assert answer.err.count("\n") == 1
    assert not Path("many").exists()
