"""Recognition by encoders and by a judge."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from versatile_diffusion.evaluation.networks import fit_images
from versatile_diffusion.evaluation.recognition import EncoderJudge, classify
from versatile_diffusion.recipes.emoji.held_out import items_of, vocabulary_of


@pytest.fixture(scope="module")
def encoder_judge(networks, data) -> EncoderJudge:
    return EncoderJudge.of(networks.encoders, vocabulary_of(data))


def test_items_are_spread_over_the_split(data) -> None:
    items = items_of(data, 5)
    assert len(items) == len(items.classes.concepts) == len(items.given["text"]) == len(items.references) == 5
    assert all(text.startswith(label) for text, label in zip(items.given["text"], items.classes.labels, strict=True))
    assert len(items_of(data, 10**6)) == len(data)


def test_labels_are_recognised_as_themselves(encoder_judge, data) -> None:
    items = items_of(data, 8)
    own = [data.concept_names[i] for i in items.classes.concepts.tolist()]
    assert encoder_judge.hits("text", own, items.classes)["encoders/concept top-1"].all()
    stranger = next(i for i in encoder_judge.known.tolist() if i not in items.classes.concepts)
    assert not encoder_judge.hits("text", [data.concept_names[stranger]] * 8, items.classes)[
        "encoders/concept top-1"
    ].any()


def test_several_values_of_an_item_stand_next_to_each_other(encoder_judge, data) -> None:
    items = items_of(data, 4)
    own = [data.concept_names[i] for i in items.classes.concepts.tolist() for _ in range(2)]
    assert encoder_judge.hits("text", own, items.classes)["encoders/concept top-1"].tolist() == [1] * 8


def test_a_text_longer_than_the_encoder_reads_is_cut(encoder_judge, data) -> None:
    items = items_of(data, 2)
    long = [f"{data.concept_names[i]} {'and so on ' * 40}" for i in items.classes.concepts.tolist()]
    assert np.isfinite(encoder_judge.hits("text", long, items.classes)["encoders/style"]).all()


def test_the_judge_says_what_its_largest_logits_say(networks, data) -> None:
    items, judge = items_of(data, 8), networks.judge
    verdict = judge.judge(data.pictures)
    first = [judge.config.concepts[k] for k in verdict.concept.argmax(1).tolist()]
    found = classify(judge, fit_images(items.given["image"], 64), items.classes)
    assert found["judge/concept top-1"].tolist() == [
        a == b for a, b in zip(first, items.classes.concept_keys, strict=True)
    ]
    styles = [judge.config.styles[k] for k in verdict.style.argmax(1).tolist()]
    assert found["judge/style"].tolist() == [a == b for a, b in zip(styles, items.classes.style_names, strict=True)]
    assert (found["judge/concept top-5"] >= found["judge/concept top-1"]).all()


def test_a_concept_that_the_judge_never_saw_has_no_score(networks, data) -> None:
    items = items_of(data, 2)
    classes = replace(items.classes, concept_keys=["unheard-of", items.classes.concept_keys[1]])
    found = classify(networks.judge, fit_images(items.given["image"], 64), classes)["judge/concept top-5"]
    assert np.isnan(found).tolist() == [True, False]
