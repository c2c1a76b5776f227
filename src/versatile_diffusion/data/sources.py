"""Pictures with captions from folders, parquet files and WebDataset shards, read in a fixed order from any position."""

from __future__ import annotations

import hashlib
import io
import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from versatile_diffusion.data.shards import (
    CAPTIONS,
    DAMAGED,
    METADATA,
    NO_CAPTION,
    NO_PICTURE,
    Raw,
    Shard,
    files_of,
    shards_in,
)
from versatile_diffusion.modalities.image import DAMAGE, check_image


@dataclass(frozen=True)
class Item:
    """One thing in several modalities: for each, the raw values that say the same of it."""

    key: str
    values: Mapping[str, list[Any]]


@dataclass(frozen=True)
class Position:
    """The sample that is read next: in which round, in which shard of that round's order, and which one there."""

    epoch: int = 0
    shard: int = 0
    sample: int = 0


START = Position()

HINTS = {
    NO_PICTURE: "a picture is a file beside its caption, or what `file_name` names, or a column `image`",
    NO_CAPTION: f"captions are lines of a .txt with the picture's name, or a field {', '.join(CAPTIONS)}",
}
"""What a sample needs, by what it lacks."""


@dataclass
class Report:
    """What was read and what was skipped, and why; too much of the latter stops the reading.

    Args:
        allowed: share of all samples, and of all shards, that may be bad; a single bad shard and `few` bad samples
            always may.
    """

    allowed: float = 0.05
    few: int = 10
    good: int = 0
    shards: int = 0
    bad: Counter[str] = field(default_factory=Counter)
    bad_shards: Counter[str] = field(default_factory=Counter)
    last: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.allowed <= 1:
            raise ValueError(f"the share of bad samples allowed is {self.allowed}; it must be from 0 to 1")
        self.bad, self.bad_shards = Counter(self.bad), Counter(self.bad_shards)

    def skip(self, why: str, where: str) -> None:
        """Counts a bad sample.

        Raises:
            ValueError: there are too many of them.
        """
        self.bad[why] += 1
        self.last = where
        bad = self.bad.total()
        if bad > max(self.few, self.allowed * (bad + self.good)):
            raise ValueError(f"too many bad samples ({self.allowed:.0%} are allowed): {self}{self.hint}")

    def skip_shard(self, why: str, where: str) -> None:
        """Counts a shard that broke off.

        Raises:
            ValueError: there are too many of them.
        """
        self.bad_shards[why] += 1
        if (bad := self.bad_shards.total()) > max(1, self.allowed * self.shards):
            raise ValueError(f"{bad} of {self.shards} shards are bad; the last is {where} ({why})")

    @property
    def hint(self) -> str:
        """The last bad sample, and what most of the bad ones lack; to stand at the end of a message."""
        last = f"; the last is {self.last}" if self.last else ""
        most = [HINTS[why] for why, _ in self.bad.most_common(1) if why in HINTS]
        return "; ".join([last, *most])

    def to_json(self) -> dict[str, Any]:
        return {**vars(self), "bad": dict(self.bad), "bad_shards": dict(self.bad_shards)}

    def __str__(self) -> str:
        bad = [f"{count} {why}" for why, count in (self.bad + self.bad_shards).most_common()]
        return ", ".join([f"{self.good} read", *bad])


@dataclass(frozen=True)
class Source:
    """Shards of pictures with captions.

    Args:
        path: as it was given.
        shards: in the order of their names.
    """

    path: Path
    shards: tuple[Shard, ...]

    @cached_property
    def listing(self) -> str:
        """A hash of the names and sizes of all files, which tells another set in the same place."""
        files = [(shard, file) for shard in self.shards for file in files_of(shard)]
        told = "".join(
            sorted(
                f"{shard.path.name if file == shard.path else file.relative_to(shard.path)} {file.stat().st_size}\n"
                for shard, file in files
            )
        )
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    def part(self, rank: int, world: int) -> Source:
        """The shards of one of `world` processes."""
        return Source(self.path, self.shards[rank::world])

    def read(
        self, position: Position = START, report: Report | None = None, seed: int | None = None, epochs: int = 1
    ) -> Iterator[tuple[Item, Position]]:
        """The items from a position on, each with the position after it.

        Args:
            position: where to begin; as yielded by an earlier reading with the same seed.
            report: counts what is skipped: bad pictures, samples without a caption, the rest of shards that break off.
            seed: of the order of the shards, another one in each round; None keeps the order of their names.
            epochs: rounds in all.

        Raises:
            ValueError: too much is bad, see `Report`.
        """
        report = report if report is not None else Report()
        for epoch in range(position.epoch, epochs):
            order = list(range(len(self.shards)))
            if seed is not None:
                random.Random(f"{seed}/{epoch}").shuffle(order)
            start = position.shard if epoch == position.epoch else 0
            for place in range(start, len(order)):
                here = Position(epoch, place, position.sample if (epoch, place) == (position.epoch, start) else 0)
                yield from self._read_shard(self.shards[order[place]], here, report)

    def _read_shard(self, shard: Shard, here: Position, report: Report) -> Iterator[tuple[Item, Position]]:
        report.shards += here.sample == 0
        try:
            for number, raw in enumerate(shard.samples(here.sample), here.sample):
                item = _item(raw, report)
                if item is not None:
                    report.good += 1
                    yield item, Position(here.epoch, here.shard, number + 1)
        except DAMAGED as error:
            report.skip_shard("shards cut short or damaged", f"{shard.path}: {error}")


def open_source(path: str | Path) -> Source:
    """Pictures with captions.

    Args:
        path: a folder, a file, or files by a pattern (`shards/train-*.tar`). A folder holds WebDataset shards
            (`*.tar`), parquet files (columns `image` and `text`), or pictures: with a `metadata.jsonl` (`file_name`,
            `text`), else each with a text file of the same name, a caption on each line.

    Raises:
        ValueError: there is nothing there, or nothing of that kind, or parquet cannot be read here.
    """
    shards = shards_in(Path(path))
    if not shards:
        if not Path(path).exists() and not set("*?[") & set(Path(path).name):
            raise ValueError(f"{path}: there is no such folder or file")
        raise ValueError(
            f"{path} holds no pictures with captions; allowed: a folder of pictures, each with a .txt of the same name "
            f"or all in a {METADATA}, WebDataset shards (.tar), parquet files"
        )
    return Source(Path(path), tuple(shards))


def _item(raw: Raw, report: Report) -> Item | None:
    """The item of a sample; None, counted, if it is bad."""
    if raw.problem:
        report.skip(raw.problem, raw.key)
        return None
    try:
        picture = check_image(raw.picture if isinstance(raw.picture, Path) else _opened(raw.picture or b""))
    except ValueError as error:
        report.skip("bad pictures", f"{raw.key}: {error}")
        return None
    return Item(raw.key, {"image": [picture], "text": raw.captions})


def _opened(data: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data))
    except (*DAMAGE, Image.DecompressionBombError) as error:
        raise ValueError(str(error)) from error
