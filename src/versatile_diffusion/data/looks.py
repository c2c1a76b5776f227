"""Some original items of an encoded set, for previews."""

from __future__ import annotations

import hashlib
from pathlib import Path

from versatile_diffusion.data.sources import Item, others_of
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.records.png import write_value

FOLDER = "looks"
RANK_LENGTH = 64
"""Length of a `rank` in characters."""


def rank(key: str) -> str:
    """Sort key for a random but reproducible choice of items: a hash of the name."""
    return hashlib.sha256(key.encode()).hexdigest()


class Looks:
    """Original items: the first `count` by `rank`."""

    def __init__(self, folder: Path, count: int):
        folder.mkdir(exist_ok=True)
        self.folder, self.count = folder, count
        self.ranks = sorted(path.stem for path in folder.glob("*.png") if len(path.stem) == RANK_LENGTH)

    def wants(self, key: str) -> bool:
        """Whether an item of this name should be kept and is not yet."""
        return rank(key) not in self.ranks and rank(key) in self._with(key)

    def _with(self, key: str) -> list[str]:
        """The first ranks, if an item of this name is added."""
        return sorted({*self.ranks, rank(key)})[: self.count]

    def keep(self, item: Item) -> None:
        """Keep an item if it is among the first. Items that no longer are, or that an earlier version chose, are
        deleted."""
        mine = rank(item.key)
        if mine not in self._with(item.key):
            return
        path = self.folder / f"{mine}.png"
        item.values["image"][0].save(path)
        path.with_suffix(".txt").write_text("\n".join(item.values["text"]) + "\n", encoding="utf-8")
        for name in others_of(item.values):
            with path.with_suffix(MODALITIES[name].suffix).open("wb") as stream:
                write_value(name, item.values[name][0], stream)
        self.ranks = self._with(item.key)
        for old in self.folder.glob("*.png"):
            if old.stem not in self.ranks:
                for beside in self.folder.glob(f"{old.stem}.*"):  # before the image, by which items are found
                    if beside != old:
                        beside.unlink(missing_ok=True)
                old.unlink()
