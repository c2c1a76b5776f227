"""Whether a text names something that a model knows."""

from __future__ import annotations

import pytest

from versatile_diffusion.pipeline.vocabulary import names_none

KNOWN = {"red apple": ["fruit"], "dog face": ["puppy", "pet"], "tangerine": ["orange"], "maple leaf": ["canada"]}
PHRASES = ("3d emoji", "black line drawing")


@pytest.mark.parametrize(
    "text",
    ["an apple", "Two APPLES!", "a puppy, 3d emoji", "green dogs", "an orange", "leaves", "a dog and a xylophone"],
)
def test_texts_that_name_something(text: str):
    assert not names_none(text, KNOWN, PHRASES)


@pytest.mark.parametrize(
    "text", ["a xylophone", "a red xylophone", "an xylophone, black line drawing", "", "a picture of a man", "dogma"]
)
def test_texts_that_name_nothing(text: str):
    assert names_none(text, KNOWN, PHRASES)


def test_a_model_that_lists_nothing_knows_all():
    assert not names_none("a xylophone", {}, PHRASES)
