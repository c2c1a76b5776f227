"""Recognition rates."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from versatile_diffusion.data.emoji.reader import EmojiSet
from versatile_diffusion.evaluation.recognition import Items, Judge, recognition

FIXTURE = Path(__file__).parents[1] / "data" / "emoji"


@pytest.fixture(scope="module")
def data() -> EmojiSet:
    return EmojiSet.load(FIXTURE, "pair-test")


def test_items_are_spread_over_the_split(data) -> None:
    items = Items.of(data, 5)
    assert len(items.labels) == len(items.concepts) == len(items.given["text"]) == 5
    assert all(text.startswith(label) for text, label in zip(items.given["text"], items.labels, strict=True))
    assert len(Items.of(data, 10**6).labels) == len(data)


def test_labels_are_recognised_as_themselves(tiny_pipeline, data) -> None:
    items, judge = Items.of(data, 8), Judge.of(tiny_pipeline.bank, data)
    rates = judge.rates("text", [data.concept_names[i] for i in items.concepts.tolist()], items)["all"]
    assert rates["concept R@1"] == 1
    assert rates["label named"] == 1


def test_another_label_is_not(tiny_pipeline, data) -> None:
    items, judge = Items.of(data, 8), Judge.of(tiny_pipeline.bank, data)
    stranger = next(i for i in judge.known.tolist() if i not in items.concepts)
    rates = judge.rates("text", [data.concept_names[stranger]] * 8, items)["all"]
    assert rates["concept R@1"] == 0


def test_a_text_longer_than_the_encoder_reads_is_cut(tiny_pipeline, data) -> None:
    items, judge = Items.of(data, 2), Judge.of(tiny_pipeline.bank, data)
    labels = [data.concept_names[i] for i in items.concepts.tolist()]
    rates = judge.rates("text", [f"{label} {'and so on ' * 40}" for label in labels], items)["all"]
    assert rates["label named"] == 1


def test_every_task_is_measured_beside_its_ceiling(tiny_pipeline, data) -> None:
    result = recognition(tiny_pipeline, data, count=3, num_inference_steps=2)
    assert set(result) == {
        "given image", "given text", "text-to-image", "image-variation", "image-to-text", "text-variation",
    }  # fmt: skip
    assert all(0 <= rate <= 1 for groups in result.values() for rates in groups.values() for rate in rates.values())
    again = recognition(tiny_pipeline, data, count=3, num_inference_steps=2)
    assert again == result
    assert result["given text"]["all"]["label named"] == 1
    assert torch.is_tensor(Items.of(data, 3).groups["all"])
