"""The emoji set as held-out data."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from PIL import Image

from versatile_diffusion.evaluation.items import ALL, Classes, HeldOut, Items, Vocabulary, spread
from versatile_diffusion.evaluation.judge_network import PictureJudge
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.recipes.emoji.data.manifest import Manifest
from versatile_diffusion.recipes.emoji.data.reader import EmojiSet
from versatile_diffusion.recipes.emoji.data.split import SPLITS
from versatile_diffusion.recipes.emoji.judge import accuracy


class EmojiHeldOut(HeldOut):
    """Splits of a set built by `versatile data emoji`: unseen pairs and unseen concepts.

    Raises:
        ValueError: no such set in `folder`.
    """

    labelled = True
    splits = ("pair-test", "concept-test")
    parts = tuple(SPLITS)

    def __init__(self, folder: Path):
        self.hash = Manifest.read(folder).hash
        self.load = lru_cache(maxsize=1)(lambda split: EmojiSet.load(folder, split))

    def items(self, split: str, count: int) -> Items:
        return items_of(self.load(split), count)

    def images(self, split: str) -> Sequence[Image.Image]:
        return [MODALITIES["image"].check(picture) for picture in self.load(split).pictures]

    def vocabulary(self, split: str) -> Vocabulary:
        return vocabulary_of(self.load(split))

    def accuracy(self, judge: PictureJudge, split: str) -> dict[str, float]:
        return accuracy(judge, self.load(split))


def items_of(data: EmojiSet, count: int) -> Items:
    """Return `count` items evenly spaced over the split; captions are "label, style phrase"."""
    rows = spread(len(data), count)
    concepts, styles = data.concepts[rows], data.styles[rows]
    groups = {ALL: torch.ones(len(rows), dtype=torch.bool)}
    if (alone := torch.as_tensor(data.no_sibling[rows])).any():
        groups["no sibling"] = alone
    return Items(
        given={
            "image": [MODALITIES["image"].check(data.pictures[row]) for row in rows],
            "text": [data.plain_captions(row)[0] for row in rows],
        },
        references=[data.captions[row] for row in rows],
        groups=groups,
        classes=Classes(
            labels=[data.labels[row] for row in rows],
            synonyms=[data.keywords[concept] for concept in concepts],
            concepts=torch.as_tensor(concepts),
            styles=torch.as_tensor(styles),
            concept_keys=[data.concept_keys[concept] for concept in concepts],
            style_names=[data.style_names[style] for style in styles],
        ),
    )


def vocabulary_of(data: EmojiSet) -> Vocabulary:
    """Return the training concepts and those of `data`, with all styles."""
    mine = set(data.concepts.tolist())
    known = [number for number, part in enumerate(data.concept_parts) if part == "train" or number in mine]
    return Vocabulary(known, [data.concept_names[number] for number in known], data.style_phrases)
