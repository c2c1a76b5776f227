"""Train and test splits, and what each held-out part tests.

* `concept-*`: whole concepts, with all their relatives, never seen in training;
* `pair-*`: a concept and a style both seen in training, but not together.

All choices derive from sha256 of names, so they are the same on any machine and when styles are added.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Set

from versatile_diffusion.recipes.emoji.data.concepts import Concept
from versatile_diffusion.recipes.emoji.data.sources import Style

SPLITS = ("train", "pair-val", "pair-test", "concept-val", "concept-test")
TEST_SHARE, VAL_SHARE = 0.06, 0.03
MIN_TRAINING_STYLES = 3

Pair = tuple[str, str]  # (style id, concept key)


def fraction(text: str) -> float:
    """Return a number in [0, 1) that depends only on the text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64


def split_concepts(concepts: Iterable[Concept]) -> dict[str, str]:
    """Map concept keys to `train`, `concept-val` or `concept-test`; families stay together, every group is tested."""
    groups: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for concept in concepts:
        groups[concept.group][concept.family].append(concept.key)
    parts: dict[str, str] = {}
    for group, families in groups.items():
        order = sorted(families, key=lambda family: fraction(f"family/{group}/{family}"))
        test = max(1, round(TEST_SHARE * len(order)))
        val = round(VAL_SHARE * len(order))
        for place, family in enumerate(order):
            part = "concept-test" if place < test else "concept-val" if place < test + val else "train"
            parts.update(dict.fromkeys(families[family], part))
    return parts


def split_pairs(pairs: Set[Pair], parts: Mapping[str, str]) -> dict[Pair, str]:
    """Map (style, concept) to splits. A training concept keeps at least three styles in training."""
    styles_of: dict[str, list[str]] = defaultdict(list)
    for style, key in pairs:
        styles_of[key].append(style)
    splits: dict[Pair, str] = {}
    for key, styles in styles_of.items():
        may_leave = len(styles) - MIN_TRAINING_STYLES if parts[key] == "train" else 0
        for place, (chance, style) in enumerate(sorted((fraction(f"pair/{style}/{key}"), style) for style in styles)):
            held = place < may_leave and chance < TEST_SHARE + VAL_SHARE
            splits[style, key] = ("pair-test" if chance < TEST_SHARE else "pair-val") if held else parts[key]
    return splits


def pairs_without_sibling(splits: Mapping[Pair, str], styles: Iterable[Style]) -> list[Pair]:
    """Return pair-test pairs without a style of the same outlines in training: the strictest test."""
    drawing = {style.id: style.drawing for style in styles}
    trained = {(drawing[style], key) for (style, key), split in splits.items() if split == "train"}
    return sorted(
        (style, key)
        for (style, key), split in splits.items()
        if split == "pair-test" and (drawing[style], key) not in trained
    )
