"""The split: families whole, three styles left, nothing in two parts."""

from __future__ import annotations

from collections import defaultdict

import pytest
from emoji_source import tiny_source

from versatile_diffusion.recipes.emoji.data.concepts import Concept
from versatile_diffusion.recipes.emoji.data.sources import STYLES
from versatile_diffusion.recipes.emoji.data.split import (
    MIN_TRAINING_STYLES,
    SPLITS,
    fraction,
    pairs_without_sibling,
    split_concepts,
    split_pairs,
)


@pytest.fixture(scope="module")
def concepts() -> tuple[Concept, ...]:
    return tuple(
        Concept(
            f"{index:x}",
            index,
            f"thing {index}",
            ("word",),
            f"group {index % 5}",
            "sub",
            f"family {index // 15}-{index % 5}",
        )
        for index in range(1500)
    )


@pytest.fixture(scope="module")
def parts(concepts):
    return split_concepts(concepts)


@pytest.fixture(scope="module")
def splits(concepts, parts):
    pairs = {
        (style.id, c.key) for place, style in enumerate(STYLES) for c in concepts if (c.index + place) % 4 or place < 2
    }
    return split_pairs(pairs, parts)


def test_families_stay_together(concepts, parts):
    of_family = defaultdict(set)
    for concept in concepts:
        of_family[concept.group, concept.family].add(parts[concept.key])
    assert all(len(found) == 1 for found in of_family.values())


def test_every_group_is_tested_in_about_the_stated_share(concepts, parts):
    for group in {concept.group for concept in concepts}:
        inside = [parts[concept.key] for concept in concepts if concept.group == group]
        assert inside.count("concept-test") / len(inside) == pytest.approx(0.06, abs=0.01)
        assert inside.count("concept-val") / len(inside) == pytest.approx(0.03, abs=0.01)


def test_at_least_three_styles_stay_in_training(splits, parts):
    left, all_styles = defaultdict(int), defaultdict(int)
    for (_, key), split in splits.items():
        left[key] += split == "train"
        all_styles[key] += 1
    for key, part in parts.items():
        assert (part == "train") == (left[key] > 0)
        if part == "train":
            assert left[key] >= min(MIN_TRAINING_STYLES, all_styles[key])


def test_held_out_concepts_are_in_no_other_part(splits, parts):
    for (_, key), split in splits.items():
        assert split in SPLITS
        assert split.startswith("concept-") == (parts[key] != "train")


def test_pairs_are_held_out_in_about_the_stated_share(splits):
    seen = [split for split in splits.values() if not split.startswith("concept-")]
    assert seen.count("pair-test") / len(seen) == pytest.approx(0.06, abs=0.01)
    assert seen.count("pair-val") / len(seen) == pytest.approx(0.03, abs=0.01)


def test_a_style_more_moves_no_pair_of_the_others(splits, parts):
    fewer = split_pairs({pair for pair in splits if pair[0] != "noto-mono"}, parts)
    moved = [pair for pair, split in fewer.items() if splits[pair] != split]
    assert len(moved) <= 2  # only where the three-style rule binds


def test_pairs_without_sibling_have_none(splits):
    drawing = {style.id: style.drawing for style in STYLES}
    alone = set(pairs_without_sibling(splits, STYLES))
    for (style, key), split in splits.items():
        siblings = [
            other for other in drawing if drawing[other] == drawing[style] and splits.get((other, key)) == "train"
        ]
        assert ((style, key) in alone) == (split == "pair-test" and not siblings)
    assert alone


def test_the_hash_is_fixed():
    assert 0 <= fraction("") < 1
    assert fraction("a") == int("ca978112ca1bbdca", 16) / 2**64


def test_a_concept_in_few_styles_loses_none():
    assert set(split_pairs({("noto", "1"), ("twemoji", "1"), ("fxemoji", "1")}, {"1": "train"}).values()) == {"train"}


def test_tiny_families_of_two():
    source = tiny_source()
    parts = split_concepts(source.concepts)
    assert all(parts[a.key] == parts[b.key] for a, b in zip(source.concepts[::2], source.concepts[1::2], strict=True))
