"""`versatile sweep`: one task over one or two settings, on a labelled sheet."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import Command
from versatile_diffusion import VersatileDiffusionPipeline


def test_a_sheet_is_what_its_cells_are_and_replays(
    versatile: Command, model: str, tiny_pipeline: VersatileDiffusionPipeline
) -> None:
    answer = versatile(
        "sweep", "text-to-image", "a dog", "--over", "guidance_scale=1:4:2", "--over", "seed=3:6", "--set", "steps=2",
        "--model", model, "--json",
    )  # fmt: skip
    told = json.loads(answer.out)
    assert told["axes"] == {"guidance_scale": [1, 3], "seed": [3, 4, 5]}
    cells = [(cell["settings"]["guidance_scale"], cell["settings"]["seeds"]) for cell in told["cells"]]
    assert cells == [(scale, [seed]) for scale in (1, 3) for seed in (3, 4, 5)]
    drawn = Image.open(told["file"])
    image = tiny_pipeline.text_to_image("a dog", guidance_scale=3, seed=5, num_inference_steps=2).images[0]
    tile = image.resize((128, 128), Image.Resampling.NEAREST)
    corner = (drawn.width - 4 - 128, drawn.height - 4 - 128, drawn.width - 4, drawn.height - 4)
    assert np.array_equal(np.asarray(drawn.crop(corner)), np.asarray(tile))
    assert versatile("replay", told["file"]).out.startswith("identical")


def test_controls_of_a_condition_and_texts(versatile: Command, model: str, apple: Path) -> None:
    answer = versatile(
        "sweep", "image-to-text", apple, "--over", "image.focus=0,0.5", "--set", "steps=2", "--model", model
    )
    assert answer.code == 0
    assert [line.split(":")[0] for line in answer.out.splitlines()[:2]] == ["image.focus 0", "image.focus 0.5"]
    assert versatile("replay", "out/sweep.json").out.startswith("identical")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("sing", "a", "--over", "seed=0:2"), "unknown task 'sing'; allowed: text-to-image"),
        (("text-to-image", "a", "b", "--over", "seed=0:2"), "takes 1 inputs (text); got 2"),
        (("text-to-image", "a", "--over", "seed"), "--over is 'seed'"),
        (("text-to-image", "a", "--over", "seed=4:4"), "the range is empty"),
        (("text-to-image", "a", "--over", "seed=0:100000000"), "100000000 values; at most 256 cells"),
        (("text-to-image", "a", "--over", "seed=0:200", "--over", "steps=1,2"), "at most 2 settings and 256 cells"),
        (("text-to-image", "a", "--over", "colour=1,2"), "unknown setting 'colour'"),
        (("text-to-image", "a", "--over", "image.weight=1,2"), "cannot sweep 'image.weight'"),
        (("text-to-image", "a", "--over", "guidance_scale=-3,1"), "guidance_scale is -3"),
        (("text-to-image", "a", "--over", "seed=0:2", "--set", "style=a,b"), "one is allowed"),
    ],
)
def test_mistakes_are_one_line(versatile: Command, model: str, arguments: tuple, words: str) -> None:
    answer = versatile("sweep", *arguments, "--model", model)
    assert (answer.code, answer.out, answer.err.count("\n")) == (2, "", 1)
    assert words in answer.err
