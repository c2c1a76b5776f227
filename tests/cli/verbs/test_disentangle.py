"""`versatile disentangle` and `versatile edit`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import Command
from versatile_diffusion import Condition, VersatileDiffusionPipeline
from versatile_diffusion.sampling.focus import Focus

FEW = ("--steps", 2, "--seed", 5)


def pixels(file: Path) -> np.ndarray:
    return np.asarray(Image.open(file))


def test_strip(versatile: Command, model: str, apple: Path, tmp_path: Path) -> None:
    answer = versatile("disentangle", apple, "--count", 2, "--out", "out", "--model", model, *FEW)
    assert (answer.code, answer.out.split()) == (0, ["out/disentangle-strip.png"]), answer.err
    sheet = Image.open(tmp_path / "out" / "disentangle-strip.png")
    assert sheet.width > 5 * 128
    assert sheet.height > 2 * 128
    assert versatile("replay", tmp_path / "out" / "disentangle-strip.png").code == 0
    told = versatile("disentangle", apple, "--convention", "2023", "--levels", 3, "--json", "--model", model, *FEW)
    record = json.loads(told.out)
    assert record["levels"] == [0, 0.5, 1]
    assert [cell["conditions"][0]["focus"]["convention"] for cell in record["cells"]] == ["2023"] * 3


@pytest.mark.parametrize(
    ("options", "focus"),
    [
        (("--level", -1), Focus(-1)),
        (("--focus", 0.8, "--drop-global", "--on-null"), Focus(0.8, "2023", None, True, True)),
    ],
)
def test_one_level(
    versatile: Command,
    model: str,
    apple: Path,
    tmp_path: Path,
    tiny_pipeline: VersatileDiffusionPipeline,
    options,
    focus,
) -> None:
    answer = versatile("disentangle", apple, *options, "--model", model, *FEW)
    assert answer.code == 0, answer.err
    wanted = tiny_pipeline.generate(
        "image", [Condition("image", str(apple), focus=focus)], seed=5, num_inference_steps=2
    )
    file = tmp_path / "out" / "disentangle-0001.png"
    assert np.array_equal(pixels(file), np.asarray(wanted.images[0]))
    assert versatile("replay", file).code == 0


def test_style_of_another(versatile: Command, model: str, apple: Path, tmp_path: Path) -> None:
    own = versatile("disentangle", apple, "--style-of", apple, "--model", model, *FEW)
    plain = versatile("image-variation", apple, "--model", model, *FEW)
    assert own.code == plain.code == 0
    first, second = (pixels(tmp_path / "out" / f"{name}-0001.png") for name in ("disentangle", "image-variation"))
    assert np.abs(first.astype(int) - second).max() <= 1


@pytest.mark.parametrize("colours", [(), ("--match-colours", "histogram")])
def test_style_of_another_is_replayed_from_its_files(
    versatile: Command, model: str, apple: Path, tmp_path: Path, colours: tuple
) -> None:
    other = tmp_path / "other.png"
    Image.fromarray(255 - pixels(apple)).save(other)
    made = versatile("disentangle", apple, "--style-of", other, "--count", 2, *colours, "--model", model, *FEW)
    files = [tmp_path / file for file in made.out.split()]
    assert len(files) == 3, made.err
    for file in files[1:]:
        answer = versatile("replay", file)
        assert (answer.code, answer.out[:9]) == (0, "identical"), answer
    Image.fromarray(pixels(apple)).save(other)
    assert "has changed" in versatile("replay", files[0]).err


def test_colours_of_a_strip_and_of_an_edit(versatile: Command, model: str, apple: Path, tmp_path: Path) -> None:
    options = ("--match-colours", "simple", "--model", model, *FEW)
    sheets = [pixels(tmp_path / versatile("disentangle", apple, *more).out.strip()) for more in (options, options[2:])]
    assert not np.array_equal(*sheets)
    assert versatile("replay", tmp_path / "out" / "disentangle-strip.png").code == 0
    for more in (options, options[2:]):
        assert versatile("edit", apple, "--caption", "a green pear", *more).code == 0
    edits = [pixels(tmp_path / "out" / f"edit-{k:04d}.png") for k in (1, 2)]
    assert not np.array_equal(*edits)
    assert versatile("replay", tmp_path / "out" / "edit-0001.png").code == 0


def test_a_mask_of_a_strip(versatile: Command, model: str, apple: Path, tmp_path: Path) -> None:
    mask = tmp_path / "mask.png"
    half = np.zeros((pixels(apple).shape[0], pixels(apple).shape[1]), np.uint8)
    half[:, : half.shape[1] // 2] = 255
    Image.fromarray(half).save(mask)
    run = ("--levels", 3, "--convention", "pca", "--model", model, *FEW)
    sheets = [pixels(tmp_path / versatile("disentangle", apple, *m, *run).out.strip()) for m in ((), ("--mask", mask))]
    assert not np.array_equal(*sheets)
    assert versatile("replay", tmp_path / "out" / "disentangle-strip-2.png").code == 0


def test_edit_shows_every_stage(versatile: Command, model: str, apple: Path, tmp_path: Path) -> None:
    found = versatile("edit", apple, "--count", 2, "--json", "--model", model, *FEW)
    before = json.loads(found.out)["before"]
    edited = ("edit", apple, "--remove", "red", "--add", "a blue cat", "--model", model, *FEW)
    told = json.loads(versatile(*edited, "--count", 2, "--json").out)
    assert (told["before"], len(told["after"]), len(told["files"])) == (before, 2, 2)
    assert versatile("replay", tmp_path / told["files"][1]).code == 0
    spoken = versatile(*edited)
    assert f"before: {before[0]}" in spoken.err
    assert f"after: {told['after'][0]}" in spoken.err


def test_edit_in_own_words(versatile: Command, model: str, apple: Path) -> None:
    told = versatile("edit", apple, "--caption", "a green pear", "--whole", "--json", "--model", model, *FEW)
    record = json.loads(told.out)
    assert (record["before"], record["after"]) == ([], ["a green pear"])
    assert "focus" not in record["settings"]["conditions"][0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("disentangle", "--level", -1, "--focus", 0.2), "are exclusive"),
        (("disentangle", "--level", 5), "supports -2 to 2"),
        (("disentangle", "--convention", "magic"), "unknown convention"),
        (("disentangle", "--style-of", "no.png"), "no such image file"),
        (("disentangle", "--style-of", "apple.png", "--mask", "apple.png"), "cannot be used with --style-of"),
        (("disentangle", "--style-of", "apple.png", "--on-null"), "leaves the null context unchanged"),
        (("disentangle", "--match-colours", "magic"), "unknown method of colour matching"),
        (("edit", "--caption", "a", "--match-colours", "magic"), "unknown method of colour matching"),
        (("edit", "--caption", "a", "--add", "b"), "not both"),
        (("image-variation", "--null", "2021"), "unknown null"),
    ],
)
def test_what_is_refused(versatile: Command, model: str, apple: Path, arguments: tuple, message: str) -> None:
    command, *options = arguments
    answer = versatile(command, apple, *options, "--model", model, *FEW)
    assert answer.code != 0
    assert message in answer.err
    assert len(answer.err.strip().splitlines()) == 1
