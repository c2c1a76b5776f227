"""Captions: grammar, ASCII quotes, style optional, colours measured."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from versatile_diffusion.recipes.emoji.data.captions import (
    TEMPLATES,
    article,
    is_countable,
    make_captions,
    measure_colours,
    with_article,
)
from versatile_diffusion.recipes.emoji.data.concepts import Concept
from versatile_diffusion.recipes.emoji.data.sources import STYLES

WORDS = ("puppy", "pet", "animal", "woof", "friend", "paw", "tail", "bark", "fur", "nose")
DOG = Concept("1f436", 0, "dog face", WORDS, "animals-nature", "mammals", "dog face")
NOTO = STYLES[0]


@pytest.mark.parametrize(
    ("label", "written"),
    [
        ("dog face", "a dog face"),
        ("ballet shoes", "ballet shoes"),
        ("orange book", "an orange book"),
        ("octopus", "an octopus"),
        ("compass", "a compass"),
        ("bus", "a bus"),
        ("unicorn", "a unicorn"),
        ("one-piece swimsuit", "a one-piece swimsuit"),
        ("euro banknote", "a euro banknote"),
        ("hourglass done", "an hourglass done"),
        ("face with tears of joy", "a face with tears of joy"),
        ("nest with eggs", "a nest with eggs"),
        ("people holding hands", "people holding hands"),
        ("woman and man holding hands", "a woman and man holding hands"),
        ("keycap: 1", "keycap: 1"),
        ("eight o'clock", "eight o'clock"),
        ("no smoking", "no smoking"),
        ("cooked rice", "cooked rice"),
        ("ATM sign", "an ATM sign"),
        ("NEW button", "a NEW button"),
        ("SOS button", "an SOS button"),
        ("UP! button", "an UP! button"),
        ("VS button", "a VS button"),
        ("O button (blood type)", "an O button (blood type)"),
        ("B button (blood type)", "a B button (blood type)"),
        ("T-Rex", "a T-Rex"),
        ('Japanese "here" button', 'a Japanese "here" button'),
    ],
)
def test_labels_in_a_sentence(label, written):
    assert with_article(label) == written


def test_style_phrases_take_the_right_article():
    phrases = [phrase for style in STYLES for phrase in style.phrases]
    assert all(is_countable(phrase) for phrase in phrases)
    assert article("outlined colour icon") == "an outlined colour icon"
    assert article("3d render") == "a 3d render"


def test_captions_of_a_picture():
    captions = make_captions(DOG, NOTO, ("brown", "white"), "1f436_noto")
    assert captions[0] == "dog face"
    assert len(captions) == len(set(captions)) == sum(template.times for template in TEMPLATES)
    assert {"brown and white dog face", "a dog face, mostly brown and white", "dog face, mammals"} <= set(captions)
    assert "mammals: dog face with brown and white colours" in captions
    assert captions == make_captions(DOG, NOTO, ("brown", "white"), "1f436_noto")
    assert captions != make_captions(DOG, NOTO, ("brown", "white"), "1f436_noto_2")


def test_about_half_of_the_captions_name_no_style():
    captions = make_captions(DOG, NOTO, ("brown",), "1f436_noto")
    named = [any(phrase in caption for phrase in NOTO.phrases) for caption in captions]
    assert 0.4 < np.mean(named) < 0.6


def test_no_colour_is_said_twice_or_when_none_was_measured():
    red = replace(DOG, label="red heart")
    assert not any("red red" in caption or "mostly" in caption for caption in make_captions(red, NOTO, ("red",), "k"))
    assert not any("mostly" in caption or "colours" in caption for caption in make_captions(DOG, NOTO, (), "k"))


def test_few_keywords_give_fewer_captions_and_never_a_word_twice():
    captions = make_captions(replace(DOG, keywords=("pet",)), NOTO, ("brown",), "k")
    assert len(captions) >= 10
    assert not any("pet" in caption for caption in captions)
    assert "an icon for pet and bark" not in captions


@pytest.mark.parametrize(
    ("rgb", "name"),
    [
        ((255, 204, 77), "yellow"),
        ((221, 46, 68), "red"),
        ((119, 178, 85), "green"),
        ((85, 172, 238), "blue"),
        ((170, 142, 214), "purple"),
        ((244, 144, 12), "orange"),
        ((193, 105, 79), "brown"),
        ((41, 47, 51), "black"),
        ((153, 170, 181), "grey"),
        ((240, 130, 190), "pink"),
        ((230, 231, 232), "white"),
    ],
)
def test_a_plain_colour_is_named(rgb, name):
    picture = np.full((64, 64, 3), 255, dtype=np.uint8)
    picture[16:48, 16:48] = rgb
    assert measure_colours(picture) == (name,)


def test_at_most_two_colours_the_larger_first():
    picture = np.full((64, 64, 3), 255, dtype=np.uint8)
    picture[:, :20], picture[:, 20:50], picture[:10, 50:] = (0, 0, 200), (200, 0, 0), (0, 200, 0)
    assert measure_colours(picture) == ("red", "blue")


def test_blank_and_monochrome_pictures():
    blank = np.full((64, 64, 3), 255, dtype=np.uint8)
    assert measure_colours(blank) == ()
    assert measure_colours(blank, monochrome=True) == ("black", "white")
