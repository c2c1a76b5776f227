"""The commands made from the table of tasks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import Command
from versatile_diffusion import VersatileDiffusionPipeline
from versatile_diffusion.records.png import read_record
from versatile_diffusion.tasks import TASKS, Task

FEW = ("--steps", 2, "--seed", 5)


def test_pictures_are_those_of_the_pipeline(
    versatile: Command, model: str, tmp_path: Path, tiny_pipeline: VersatileDiffusionPipeline
) -> None:
    answer = versatile(
        "text-to-image", "a red apple", "--style", "noto", "--count", 3, "--out", "out", "--model", model, *FEW
    )
    files = [tmp_path / "out" / f"text-to-image-000{k}.png" for k in (1, 2, 3)]
    assert (answer.code, answer.out.split()) == (0, [*(f"out/{f.name}" for f in files), "out/grid.png"])
    expected = tiny_pipeline.text_to_image("a red apple", style="noto", num_outputs=3, seed=5, num_inference_steps=2)
    for file, image in zip(files, expected.images, strict=True):
        assert np.array_equal(np.asarray(Image.open(file)), np.asarray(image))


def test_grid_holds_every_picture_with_thin_gaps(versatile: Command, model: str, tmp_path: Path) -> None:
    versatile("text-to-image", "a", "--count", 3, "--out", tmp_path, "--model", model, *FEW)
    sheet = Image.open(tmp_path / "grid.png")
    assert sheet.size == (2 * 192 + 2, 2 * 192 + 2)
    first = Image.open(tmp_path / "text-to-image-0001.png").resize((192, 192), Image.Resampling.BICUBIC)
    assert np.array_equal(np.asarray(sheet)[:192, :192], np.asarray(first))
    assert len(set(sheet.crop((192, 0, 194, sheet.height)).get_flattened_data())) == 1


@pytest.mark.parametrize(("fidelity", "left_out"), [("0.001", 1), ("0.999", 2)])
def test_a_start_is_neither_ignored_nor_all(
    versatile: Command, model: str, apple: Path, fidelity: str, left_out: int
) -> None:
    start = ("--start", apple, "--fidelity", fidelity)
    made = versatile("text-to-image", "a", *start, "--model", model, "--steps", 3, "--seed", 5).out.strip()
    assert read_record(Image.open(made))["start_steps"] == left_out
    assert versatile("replay", made).out.startswith("identical")


def test_nothing_is_written_over(versatile: Command, model: str, tmp_path: Path) -> None:
    first = versatile("text-to-image", "a", "--count", 2, "--model", model, *FEW)
    before = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    second = versatile("text-to-image", "b", "--count", 2, "--model", model, *FEW)
    assert not set(first.out.split()) & set(second.out.split())
    assert "out/grid-2.png" in second.out
    assert "already has" in second.err
    assert {name: (tmp_path / "out" / name).read_bytes() for name in before} == before


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_every_task_has_a_command(versatile: Command, able_model: str, apple: Path, hello: Path, task: Task) -> None:
    inputs = {"text": "a red apple", "image": apple, "audio": hello}
    given = [inputs[modality] for modality in task.flow.contexts]
    answer = versatile(task.name, *given, "--model", able_model, "--json", *FEW)
    assert answer.code == 0, answer.err
    result = json.loads(answer.out)
    assert (result["task"], result["settings"]["seeds"]) == (task.name, [5])
    made = result["texts"] if task.flow.data == "text" else result["files"]
    assert len(made) == 1


def test_captions_are_printed_and_saved(versatile: Command, model: str, apple: Path, tmp_path: Path) -> None:
    given = ("image-to-text", apple, "--count", 2, "--model", model, *FEW)
    only_printed = versatile(*given)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["apple.png"]
    saved = versatile(*given, "--out", "captions")
    text = (tmp_path / "captions" / "image-to-text-0001.txt").read_text(encoding="utf-8")
    record = json.loads((tmp_path / "captions" / "image-to-text-0001.json").read_text(encoding="utf-8"))
    assert text.splitlines() == record["texts"] == only_printed.out.splitlines() == saved.out.splitlines()
    assert record["conditions"][0]["values"][0]["file"] == str(apple)


def test_a_seed_is_drawn_and_told(versatile: Command, model: str) -> None:
    answer = versatile("text-to-image", "a", "--steps", 1, "--model", model)
    seed = read_record(Image.open(answer.out.strip()))["seed"]
    assert f"--seed {seed}\n" in answer.err


def test_progress_stays_off_stdout(versatile: Command, model: str) -> None:
    assert json.loads(versatile("text-variation", "a", "--json", "--model", model, *FEW).out)["texts"]
