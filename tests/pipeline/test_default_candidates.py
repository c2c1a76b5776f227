"""Candidates that a model takes by default: for the task itself, where results can be compared with what is given."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image
from tiny import build_tiny_pipeline

from versatile_diffusion import Condition, VersatileDiffusionPipeline
from versatile_diffusion.recipes.emoji.diffuser import DEFAULTS

PICTURE = Condition("image", Image.new("RGB", (16, 16), "red"))


@pytest.fixture(scope="module")
def pipe() -> VersatileDiffusionPipeline:
    pipe = build_tiny_pipeline()
    pipe.register_to_config(defaults={"image-to-text": {"candidates": 8, "num_inference_steps": 2}})
    return pipe


@pytest.mark.parametrize(
    ("options", "expected"),
    [({}, 8), ({"num_outputs": 4}, 2), ({"num_outputs": 20}, 1), ({"candidates": 1}, 1), ({"candidates": 3}, 3)],
)
def test_eight_in_all_unless_asked_for_others(
    pipe: VersatileDiffusionPipeline, options: dict[str, Any], expected: int
) -> None:
    assert pipe.request("text", [PICTURE], options).candidates == expected


def test_not_for_other_flows_and_not_for_tokens(pipe: VersatileDiffusionPipeline) -> None:
    text = Condition("text", "a cat")
    assert pipe.request("text", [text], {}).candidates == 1
    assert pipe.request("text", [text, PICTURE], {}).candidates == 1
    assert pipe.request("image", [PICTURE], {}).candidates == 1
    tokens = pipe.bank.encoders["image"].encode([pipe.bank.encoders["image"].fit(PICTURE.value)])
    assert pipe.request("text", [Condition("image", tokens=tokens)], {}).candidates == 1
    assert [name for name, usual in DEFAULTS.items() if "candidates" in usual] == ["image-to-text"]


def test_the_best_is_kept_and_the_others_are_told_with_scores(pipe: VersatileDiffusionPipeline) -> None:
    output = pipe.image_to_text(PICTURE.value, seed=0)
    assert output.settings["candidates"] == 8
    scores = [row.score for row in output.considered]
    assert scores == sorted(scores, reverse=True)
    assert sum(row.count for row in output.considered) == 8
    (text,) = output.texts
    assert text in [row.value for row in output.considered if row.score == scores[0]]
    assert output[0].considered == ()
    assert pipe.image_to_text(PICTURE.value, seed=0, candidates=1).considered == ()
    assert pipe.replay(output[0].settings, lambda record: PICTURE.value).texts == [text]
