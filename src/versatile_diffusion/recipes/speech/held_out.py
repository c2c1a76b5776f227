"""The speech set as held-out data for `versatile evaluate`: recordings with their words, and drawings of these."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import torch
from PIL import Image

from versatile_diffusion.evaluation.items import ALL, HeldOut, Items, spread
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.recipes.emoji.data.reader import EmojiSet
from versatile_diffusion.recipes.emoji.data.split import SPLITS
from versatile_diffusion.recipes.speech.data.build import SpeechManifest
from versatile_diffusion.recipes.speech.data.reader import SpeechSet
from versatile_diffusion.recipes.speech.diffuser import AUDIO, emoji_beside


class SpeechHeldOut(HeldOut):
    """Splits of a set built by `versatile data speech`, with the emoji set beside it: pairs of voice and word, and
    words, that training has not seen. Items are those whose word is drawn in the split.

    Judges of recordings are not part of it: `recipes/speech/figures.py` has them.

    Raises:
        ValueError: no such set in `folder`, or no emoji set beside it.
    """

    splits = ("pair-test", "concept-test")
    parts = tuple(SPLITS)

    def __init__(self, folder: Path):
        self.hash, emoji = SpeechManifest.read(folder).hash, emoji_beside(folder)
        self.load = lru_cache(maxsize=1)(
            lambda split: (SpeechSet.load(folder, split), EmojiSet.load(emoji, split)),
        )

    def items(self, split: str, count: int) -> Items:
        data, drawings = self.load(split)
        shown = {drawings.concept_keys[c]: row for row, c in reversed([*enumerate(drawings.concepts.tolist())])}
        keys = [data.concept_keys[concept] for concept in data.concepts.tolist()]
        able = [row for row, key in enumerate(keys) if key in shown]
        rows = [able[place] for place in spread(len(able), count)]
        check = MODALITIES["image"].check
        return Items(
            given={
                "image": [check(drawings.pictures[shown[keys[row]]]) for row in rows],
                "text": [data.labels[row] for row in rows],
                AUDIO: [data.waves[row] for row in rows],
            },
            references=[[data.labels[row], *data.captions[row]] for row in rows],
            groups={ALL: torch.ones(len(rows), dtype=torch.bool)},
        )

    def images(self, split: str) -> Sequence[Image.Image]:
        _, drawings = self.load(split)
        return [MODALITIES["image"].check(picture) for picture in drawings.pictures]
