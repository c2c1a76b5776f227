"""`versatile joint`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.cli.conftest import Command
from versatile_diffusion import Condition, VersatileDiffusionPipeline
from versatile_diffusion.applications.joint import Exchange, joint

FEW = ("--steps", 4, "--seed", 5)


def test_pictures_and_captions_are_those_of_the_application(
    versatile: Command, model: str, tmp_path: Path, tiny_pipeline: VersatileDiffusionPipeline
) -> None:
    run = ("--text", "a cat@2,scale=3", "--every", 2, "--caption-weight", 0.5, "--temperature", 0.7, "--count", 2)
    answer = versatile("joint", *run, "--caption-scale", 2, "--model", model, *FEW)
    assert answer.code == 0, answer.err
    made = joint(
        tiny_pipeline,
        [Condition("text", "a cat", weight=2, guidance_scale=3)],
        exchange=Exchange(caption_weight=0.5, every=2),
        captioning={"temperature": 0.7, "guidance_scale": 2},
        seed=5,
        num_outputs=2,
        num_inference_steps=4,
    )
    captions = [" ".join(text.split()) for text in made.caption.texts]
    assert (tmp_path / "out" / "joint-captions-0001.txt").read_text().splitlines() == captions
    assert [line.split("\t") for line in answer.out.splitlines()[:2]] == [
        [f"out/joint-{k + 1:04d}.png", text] for k, text in enumerate(captions)
    ]
    for k, picture in enumerate(made.picture.images):
        file = tmp_path / "out" / f"joint-{k + 1:04d}.png"
        assert np.array_equal(np.asarray(Image.open(file)), np.asarray(picture))
        assert versatile("replay", file).code == 0
    assert versatile("replay", tmp_path / "out" / "joint-captions-0001.txt").code == 0
    assert versatile("replay", tmp_path / "out" / "grid.png").code == 0


def test_from_noise_and_from_a_picture(versatile: Command, model: str, apple: Path, tmp_path: Path) -> None:
    for number, given in enumerate(((), ("--image", f"{apple}@1,region=left")), 1):
        told = versatile("joint", *given, "--json", "--model", model, *FEW)
        record = json.loads(told.out)
        assert (len(record["files"]), len(record["texts"])) == (3, 1)
        assert record["settings"]["application"]["captions"][0].split() == record["texts"][0].split()
        assert versatile("replay", tmp_path / "out" / f"joint-{number:04d}.png").code == 0
        assert versatile("replay", tmp_path / "out" / f"joint-captions-{number:04d}.json").code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--after", 1), "after is 1"),
        (("--caption-weight", -1), "caption_weight is -1"),
        (("--caption-weight", 0), "all conditions have weight 0"),
        (("--top-p", 2), "top_p is 2"),
        (("--out", "-"), "without its caption"),
        (("--image", "no.png"), "no such image file"),
        (("--style", "noto"), "style needs a text condition"),
    ],
)
def test_what_is_refused(versatile: Command, model: str, arguments: tuple, message: str) -> None:
    answer = versatile("joint", *arguments, "--model", model, *FEW)
    assert answer.code != 0
    assert message in answer.err
    assert len(answer.err.strip().splitlines()) == 1
