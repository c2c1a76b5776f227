"""Held-out items from image-caption data in any supported layout."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image

from versatile_diffusion.data.report import Report
from versatile_diffusion.data.sources import Item, open_source
from versatile_diffusion.evaluation.items import ALL, HeldOut, Items, spread

FEWEST = 2
"""Minimum number of items."""


class OwnHeldOut(HeldOut):
    """Images with captions in any layout that `open_source` reads: folders, shards, parquet, COCO captions.

    The whole data set is one split, so it must not overlap the training data. The first caption of an image is its
    prompt; all captions are references.

    Args:
        path: see `open_source`.
        encoding: encoding of the captions, if ambiguous.

    Raises:
        ValueError: no such data, or fewer than two usable items.
    """

    def __init__(self, path: Path, encoding: str | None = None):
        self.source = open_source(path, encoding)
        self.hash = self.source.content
        self.report = Report()
        if len(self.samples) < FEWEST:
            raise ValueError(f"{path} has {len(self.samples)} usable items; evaluation needs at least {FEWEST}")

    @cached_property
    def samples(self) -> list[Item]:
        """All usable items."""
        return [item for item, _ in self.source.read(report=self.report)]

    def items(self, split: str, count: int) -> Items:
        rows = [self.samples[row] for row in spread(len(self.samples), count)]
        return Items(
            given={
                "image": [row.values["image"][0] for row in rows],
                "text": [row.values["text"][0] for row in rows],
            },
            references=[row.values["text"] for row in rows],
            groups={ALL: torch.ones(len(rows), dtype=torch.bool)},
        )

    def images(self, split: str) -> Sequence[Image.Image]:
        return [sample.values["image"][0] for sample in self.samples]
