"""`versatile blend`: any number of texts and pictures, each with its own controls."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import Command
from versatile_diffusion import Condition, VersatileDiffusionPipeline
from versatile_diffusion.cli.verbs.blend import condition
from versatile_diffusion.sampling.focus import Focus

FEW = ("--steps", 2, "--seed", 5)


@pytest.mark.parametrize(
    ("spec", "value", "fields"),
    [
        ("a car", "a car", {}),
        ("a car@0.3", "a car", {"weight": 0.3}),
        ("me@home", "me@home", {}),
        ("me@home@2", "me@home", {"weight": 2.0}),
        ("red, green and blue@1", "red, green and blue", {"weight": 1.0}),
        ("one\ntwo@.5", "one\ntwo", {"weight": 0.5}),
        (
            "a car@0.3,scale=9,negative=a cat,end=0.5,focus=0.2,region=left",
            "a car",
            {
                "weight": 0.3,
                "guidance_scale": 9.0,
                "negative": "a cat",
                "end": 0.5,
                "focus": 0.2,
                "region": (0, 0, 0.5, 1),
            },
        ),
        ("a@1,focus=paper:-2,start=0.1", "a", {"focus": Focus(-2, "paper"), "start": 0.1}),
        ("a@1, region=0:0.25:0.5:1, end=0.5", "a", {"region": (0, 0.25, 0.5, 1), "end": 0.5}),
    ],
)
def test_what_is_written_is_a_condition(spec: str, value: str, fields: dict) -> None:
    assert condition("text", spec) == Condition("text", value, **fields)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("a@1,strength=2", "unknown control 'strength'.*allowed: mask, scale, negative, focus, start, end, region"),
        ("a@-1", "weight of a text condition is -1"),
        ("a@1,scale", "scale in .* is ''; it must be a number"),
        ("a@1,scale=high", "scale in .* is 'high'; it must be a number"),
        ("a@1,region=nowhere", "unknown part of the canvas 'nowhere'; allowed: left"),
        ("a@1,start=0.9,end=0.2", "start and end"),
        ("a@1,focus=cubist:1", "unknown convention 'cubist'"),
    ],
)
def test_mistakes_in_it(spec: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        condition("text", spec)


def test_it_is_what_the_pipeline_makes(
    versatile: Command, model: str, apple: Path, tiny_pipeline: VersatileDiffusionPipeline
) -> None:
    answer = versatile(
        "blend", "--text", "a car@0.3,end=0.5", "--image", f"{apple}@0.7,focus=0.2", "--text", "a cat@0",
        "--mixing", "layer", "--show-plan", "--model", model, *FEW,
    )  # fmt: skip
    lines = answer.out.splitlines()
    assert (answer.code, lines[0], len(lines)) == (0, "out/blend-0001.png", 3)
    conditions = [
        Condition("text", "a car", weight=0.3, end=0.5),
        Condition("text", "a cat", weight=0),
        Condition("image", str(apple), weight=0.7, focus=0.2),
    ]
    expected = tiny_pipeline.generate("image", conditions, mixing="layer", seed=5, num_inference_steps=2)
    assert np.array_equal(np.asarray(Image.open("out/blend-0001.png")), np.asarray(expected.images[0]))
    assert lines[1:] == [" ".join(map(str, choices)) for choices in expected.layer_plan]
    assert versatile("replay", "out/blend-0001.png").code == 0


def test_texts_from_a_blend_are_ranked(versatile: Command, model: str, apple: Path) -> None:
    given = (
        "blend",
        "--to",
        "text",
        "--image",
        apple,
        "--text",
        "a dog@0.2",
        "--count",
        4,
        "--rank",
        "--max-length",
        4,
    )
    answer = json.loads(versatile(*given, "--model", model, "--json", *FEW).out)
    assert sorted(item for row in answer["ranking"] for item in row["items"]) == [0, 1, 2, 3]
    assert set(answer["statistics"]) == {"distinct-1", "distinct-2", "self-similarity"}
    assert answer["cost"]["passes"] == 4
    printed = versatile(*given, "--model", model, *FEW)
    assert len(printed.out.splitlines()) == len(answer["ranking"])
    assert "self-similarity" in printed.err


def test_a_printed_layer_plan_is_taken_back(versatile: Command, model: str, apple: Path, tmp_path: Path) -> None:
    given = ("--text", "a cat", "--image", apple, "--model", model)
    run = ("blend", *given, "--mixing", "layer", "--steps", 3, "--seed", 1)
    drawn = versatile(*run, "--layer-seed", 7, "--show-plan")
    plan = tmp_path / "plan.txt"
    plan.write_text("\n".join(drawn.out.splitlines()[1:]))
    again = versatile(*run, "--layer-plan", plan, "--show-plan")
    assert again.out.splitlines()[1:] == drawn.out.splitlines()[1:], again.err
    first, second = (np.asarray(Image.open(tmp_path / "out" / f"blend-{k:04d}.png")) for k in (1, 2))
    assert np.array_equal(first, second)
    assert versatile("replay", tmp_path / "out" / "blend-0002.png").code == 0
    for text, words in (("0 x", "not a layer plan"), ("0 1", "one list of"), ("", "a list of lists of choices")):
        plan.write_text(text)
        refused = versatile(*run, "--layer-plan", plan)
        assert (refused.code != 0, words in refused.err) == (True, True), refused.err
    assert "no such file" in versatile(*run, "--layer-plan", tmp_path / "none.txt").err


def test_mistakes_are_one_line(versatile: Command, model: str, apple: Path) -> None:
    for arguments, words in (
        ((), "nothing to blend"),
        (("--text", "a@0"), "weight 0"),
        (("--text", "a", "--to", "sound"), "allowed: image, text"),
        (("--text", "a@1,region=left", "--mixing", "layer"), "region needs mixing"),
        (("--text", "a", "--repaint", "left"), "repaint needs start"),
        (("--text", "a", "--guidance-interval", "0.5"), "START:END"),
    ):
        answer = versatile("blend", *arguments, "--model", model)
        assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1)
        assert words in answer.err


def test_repainting_a_part(versatile: Command, model: str) -> None:
    start = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8))
    start.save("start.png")
    answer = versatile(
        "text-to-image", "a", "--start", "start.png", "--repaint", "right", "--count", 2, "--model", model, *FEW
    )
    assert answer.code == 0
    for file in answer.out.split()[:2]:
        assert np.array_equal(np.asarray(Image.open(file))[:, :8], np.asarray(start)[:, :8])
    assert versatile("replay", answer.out.split()[1]).code == 0
