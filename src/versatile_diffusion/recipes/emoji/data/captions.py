"""Captions: templates filled with a concept's names, style phrases, and colours measured in the image.

Colours make captions depend on the image and not only on concept and style. About half of the captions name no style,
so that the model also learns generation without one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from versatile_diffusion.recipes.emoji.data.concepts import Concept
from versatile_diffusion.recipes.emoji.data.sources import Style

MIN_COLOUR_SHARE = 0.28  # of the foreground; at most two colours are named
_BACKGROUND_FLOOR = 235  # all three channels above it: the white that images are drawn on
_MONOCHROME = ("black", "white")

_HUES = (  # upper end of the hue in degrees -> name
    (14, "red"),
    (38, "orange"),
    (68, "yellow"),
    (168, "green"),
    (195, "teal"),
    (252, "blue"),
    (290, "purple"),
    (345, "pink"),
    (361, "red"),
)
COLOUR_NAMES = ("black", "white", "grey", "brown", *dict.fromkeys(name for _, name in _HUES))
_HUE_CODES = np.array([COLOUR_NAMES.index(name) for _, name in _HUES])
_HUE_ENDS = np.array([end for end, _ in _HUES])

# Stuff, games, adjectives and proper names among the labels.
_WITHOUT_ARTICLE = """
bacon badminton bowling bread broccoli butter camping cinema confetti construction cooking copyright corn custard
divide dna fire flatbread fog foggy food garlic hockey ice infinity information lacrosse lightning liquid littering
locked lowercase luggage milk money multiply oden om pong poo popcorn prohibited racing radioactive registered rice
sake salad salt smoking soap spaghetti sushi tea tennis unlocked uppercase voltage water wireless wood yarn aries
taurus gemini cancer leo virgo libra scorpio sagittarius capricorn aquarius pisces ophiuchus claus fuji statue zzz
"""
_NO_ARTICLE = frozenset(_WITHOUT_ARTICLE.split())
_PLURALS = frozenset({"people", "men", "women", "children", "feet", "teeth", "mice"})
_SINGULAR_IN_S = re.compile(r"(ss|us|rhinoceros|fleur-de-lis|lens|news|christmas)$")
_HEAD_ENDS = re.compile(
    r" (?:with|of|in|and|on|at|to|from|over|under|behind|without|holding|lifting|showing|getting|savoring|blowing"
    r"|for) "
)
_CONSONANT_SOUND = re.compile(r"(?:uni|eu|ewe|one\b|one-|ufo|ukulele|use|user|utility)", re.IGNORECASE)
_VOWEL_LETTERS = re.compile(r"[AEFHILMNORSX][A-Z0-9]+\b(?!!)|[AEFHILMNORSX]\b(?=[ -])")
_SPOKEN = frozenset({"NEW", "FREE", "SOON", "END", "ON", "UP", "SEND", "HOT"})  # capitals read as words


def article(noun: str) -> str:
    """Prefix the noun with "a" or "an"."""
    first = noun.split()[0].strip("\"'!")
    spelled = first.isupper() and first not in _SPOKEN and _VOWEL_LETTERS.match(first + " ") is not None
    consonant_letter = first.isupper() and len(first) > 1 and first not in _SPOKEN and not spelled
    vowel = spelled or (
        not consonant_letter
        and (first[:1].lower() in "aeiou" or first.lower() == "hourglass" or first.startswith(("8", "11", "18", "fx")))
        and not _CONSONANT_SOUND.match(first)
    )
    return f"{'an' if vowel else 'a'} {noun}"


def is_countable(label: str) -> bool:
    """Return whether the label can take an article: not a plural, mass noun or proper name, and not "x: y"."""
    low = label.lower()
    if ":" in label or low.startswith("no ") or low.endswith(("o'clock", "-thirty")):
        return False
    words = _HEAD_ENDS.split(low)[0].split()
    head = words[-1].strip("\"'!")
    if head in _NO_ARTICLE or words[0] in _PLURALS or head in _PLURALS:
        return False
    return not head.endswith("s") or _SINGULAR_IN_S.search(head) is not None


def with_article(label: str) -> str:
    """Return the label as used in a sentence."""
    return article(label) if is_countable(label) else label


def _colour_codes(picture: np.ndarray) -> np.ndarray:
    """Return the index into COLOUR_NAMES of every foreground pixel."""
    pixels = picture.reshape(-1, 3).astype(np.int32)
    pixels = pixels[pixels.min(axis=1) < _BACKGROUND_FLOOR]
    high, low = pixels.max(axis=1), pixels.min(axis=1)
    spread = np.maximum(high - low, 1)
    red, green, blue = pixels.T
    hue = np.where(
        high == red,
        (green - blue) / spread,
        np.where(high == green, 2 + (blue - red) / spread, 4 + (red - green) / spread),
    )
    hue = (hue * 60) % 360
    saturation, value = (high - low) / np.maximum(high, 1), high / 255
    codes = _HUE_CODES[np.searchsorted(_HUE_ENDS, hue, side="right")]
    grey, black, white, brown = (COLOUR_NAMES.index(name) for name in ("grey", "black", "white", "brown"))
    warm = (hue >= 8) & (hue < 42) & (saturation > 0.25)
    dull_red = ((hue < 8) | (hue > 340)) & (saturation < 0.5) & (value < 0.7)
    codes = np.where(warm & ((value < 0.7) | ((value < 0.82) & (saturation < 0.72))) | dull_red, brown, codes)
    codes = np.where(saturation < 0.16, grey, codes)
    codes = np.where((saturation < 0.16) & (value > 0.88), white, codes)  # cream is named white
    return np.where((value < 0.25) | ((saturation < 0.2) & (value < 0.33)), black, codes)


def measure_colours(picture: np.ndarray, monochrome: bool = False) -> tuple[str, ...]:
    """Return at most two colour names that each cover a large part of the foreground, larger first."""
    if monochrome:
        return _MONOCHROME
    codes = _colour_codes(picture)
    if not len(codes):
        return ()
    shares = np.bincount(codes, minlength=len(COLOUR_NAMES)) / len(codes)
    order = sorted(range(len(COLOUR_NAMES)), key=lambda code: (-shares[code], code))[:2]
    return tuple(COLOUR_NAMES[code] for code in order if shares[code] > MIN_COLOUR_SHARE)


@dataclass(frozen=True)
class Template:
    """A caption template, used `times` times with changing phrases and keywords.

    `{l}` label, `{al}` label with article, `{s}` style phrase, `{as_}` the same with article, `{t1}`..`{t3}` keywords,
    `{c}` colours, `{sub}` subgroup.
    """

    text: str
    times: int = 1

    @property
    def keywords(self) -> int:
        """Number of different keywords it needs."""
        return sum(f"{{t{i}}}" in self.text for i in (1, 2, 3))

    @property
    def colours(self) -> bool:
        """Whether it names colours."""
        return "{c}" in self.text


TEMPLATES = (
    Template("{l}"),
    Template("{l}, {s}", 3),
    Template("{as_} of {al}", 3),
    Template("{al} drawn as {as_}", 3),
    Template("{l} ({t1}, {t2})", 4),
    Template("{s}: {t1}, {t2}, {t3}", 3),
    Template("{c} {l}"),
    Template("{c} {l}, {s}", 2),
    Template("a picture of {al}"),
    Template("{l}, {sub}"),
    Template("{t1} {t2} {l} in the style of {as_}", 2),
    Template("{al}, mostly {c}"),
    Template("{sub}: {l} with {c} colours"),
    Template("an icon for {t1} and {t2}", 4),
)


def _shuffle(words: tuple[str, ...], seed: str) -> list[str]:
    return sorted(words, key=lambda word: hashlib.sha256(f"{seed}/{word}".encode()).digest())


def make_captions(concept: Concept, style: Style, colours: tuple[str, ...], key: str) -> list[str]:
    """Return the unique captions of an image; the first is the plain label. `key` seeds the choice of words."""
    words = _shuffle(concept.keywords, key)
    phrases = _shuffle(style.phrases, key)
    named = set(re.findall(r"[a-z]+", concept.label.lower()))
    fields = {
        "l": concept.label,
        "al": with_article(concept.label),
        "sub": concept.subgroup,
        "c": " and ".join(colours),
    }
    captions: list[str] = []
    turn = 0  # shared by all templates, so that neighbours get different keywords
    for template in TEMPLATES:
        # "red red heart" adds nothing to "red heart"
        if template.keywords > len(words) or (template.colours and (not colours or named & set(colours))):
            continue
        for time in range(template.times):
            phrase = phrases[time % len(phrases)]
            chosen = [words[(turn + i) % len(words)] for i in range(3)]
            turn += template.keywords
            filled = dict(zip(("t1", "t2", "t3"), chosen, strict=True)) | {"s": phrase, "as_": article(phrase)}
            captions.append(template.text.format(**fields, **filled))
    return list(dict.fromkeys(captions))


def typed_captions(label: str, phrases: Sequence[str], colours: Sequence[str]) -> list[str]:
    """Return short captions as typed by users: with or without article, style before or after."""
    noun = label.lower()
    named = with_article(noun)
    captions = [noun, named, f"{noun} emoji", f"a picture of {named}", f"a drawing of {named}"]
    for phrase in phrases:
        captions += [f"{noun}, {phrase}", f"{named}, {phrase}", f"{article(phrase)} of {named}", f"{phrase} {noun}"]
    if colours and not set(re.findall("[a-z]+", noun)) & set(colours):
        coloured = f"{' and '.join(colours)} {noun}"
        captions += [coloured, article(coloured) if is_countable(label) else coloured]
        captions += [f"{coloured}, {phrase}" for phrase in phrases]
    return list(dict.fromkeys(captions))
