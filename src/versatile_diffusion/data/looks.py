"""Some items of an encoded set, as they were: what is shown of it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from versatile_diffusion.data.sources import Item, others_of
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.records.png import write_value

FOLDER = "looks"
RANK_LENGTH = 64
"""Letters of a `rank`."""


def rank(key: str) -> str:
    """What items are put into an order by that has nothing to do with what they are: a hash of the name."""
    return hashlib.sha256(key.encode()).hexdigest()


class Looks:
    """Some items as they were: the first `count` by `rank`."""

    def __init__(self, folder: Path, count: int):
        folder.mkdir(exist_ok=True)
        self.folder, self.count = folder, count
        self.ranks = sorted(path.stem for path in folder.glob("*.png") if len(path.stem) == RANK_LENGTH)

    def wants(self, key: str) -> bool:
        """Whether an item of this name should be kept, and is not."""
        return rank(key) not in self.ranks and rank(key) in self._with(key)

    def _with(self, key: str) -> list[str]:
        """The first, with an item of this name among them."""
        return sorted({*self.ranks, rank(key)})[: self.count]

    def keep(self, item: Item) -> None:
        """Keeps an item, if it is among the first; those that are so no more, or that an earlier version chose, are
        deleted then."""
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
                for beside in self.folder.glob(f"{old.stem}.*"):  # first: what is found again is the picture
                    if beside != old:
                        beside.unlink(missing_ok=True)
                old.unlink()
