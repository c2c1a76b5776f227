"""Which concepts an edition has, and which of its drawings may be mirrored."""

from __future__ import annotations

import pytest

from versatile_diffusion.recipes.emoji.data import editions
from versatile_diffusion.recipes.emoji.data.concepts import Concept
from versatile_diffusion.recipes.emoji.data.editions import ALIKE, OBSCURE, REASONS, WRITTEN, choose, may_mirror

TABLE = (
    Concept("1f34e", 0, "red apple", ("fruit",), "food-drink", "fruit", "red apple"),
    Concept("1f170", 1, "A button (blood type)", ("a",), "symbols", "alphanumeric symbols", "A button"),
    Concept("1f550", 2, "one o'clock", ("time",), "travel-places", "time", "one o'clock"),
    Concept("1f9d1-1f33e", 3, "farmer", ("person",), "people-body", "roles & careers", "farmer"),
    Concept("1f44d", 4, "thumbs up", ("like",), "people-body", "fingers closed", "thumbs up"),
    Concept("1fad8", 5, "beans", ("food",), "food-drink", "vegetables", "beans"),
    Concept("1f3e6", 6, "bank", ("money",), "travel-places", "buildings", "bank"),
    Concept("1f4df", 7, "pager", ("phone",), "objects", "phone", "pager"),
    Concept("1f642", 8, "slightly smiling face", ("face",), "smileys-emotion", "smiling", "slightly smiling face"),
)
DRAWN = {concept.key: 12 for concept in TABLE} | {"1fad8": 9}


def test_every_reason_leaves_its_concept_out_and_is_counted():
    kept, left_out = choose(2, TABLE, DRAWN, styles=14)
    assert kept == {"1f34e", "1f44d"}
    assert left_out == dict.fromkeys(REASONS, 1)


def test_the_first_edition_has_all():
    assert choose(1, TABLE, DRAWN, styles=14) == (frozenset(concept.key for concept in TABLE), {})


def test_of_few_styles_a_concept_must_have_all():
    assert "1fad8" in choose(2, TABLE, {"1fad8": 4}, styles=4)[0]
    assert "1fad8" not in choose(2, TABLE, {"1fad8": 3}, styles=4)[0]


def test_an_unknown_edition_is_refused():
    with pytest.raises(ValueError, match=r"edition is 0; it must be 1 \(all"):
        editions.check_edition(0)


def test_a_concept_has_one_reason_and_what_stands_for_others_is_kept():
    assert len(WRITTEN | OBSCURE | ALIKE) == len(WRITTEN) + len(OBSCURE) + len(ALIKE)
    standing = {line.partition(":")[0] for line in editions._ALIKE.split("\n") if line}
    assert not standing & (WRITTEN | OBSCURE | ALIKE)


@pytest.mark.parametrize(
    ("label", "group", "may"),
    [
        ("dog", "animals-nature", True),
        ("police car", "travel-places", False),
        ("crescent moon", "travel-places", False),
        ("magnifying glass tilted left", "objects", False),
        ("left-facing fist", "people-body", False),
        ("red circle", "symbols", False),
        ("bank", "travel-places", False),
    ],
)
def test_what_a_mirror_would_change_is_not_mirrored(label: str, group: str, may: bool):
    assert may_mirror(label, group) is may
