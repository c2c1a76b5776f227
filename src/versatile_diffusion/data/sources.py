"""Images with captions from folders, parquet files and WebDataset shards, read in a fixed order from any position."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import count, islice
from pathlib import Path
from typing import Any, TypeVar

from versatile_diffusion.data.archives import DAMAGED
from versatile_diffusion.data.captions import UnusableError
from versatile_diffusion.data.layouts import shards_in
from versatile_diffusion.data.listing import LeftOut, is_pattern, summarise
from versatile_diffusion.data.remote import is_url, remote_shards
from versatile_diffusion.data.report import Report
from versatile_diffusion.data.shards import Raw, Shard, digest
from versatile_diffusion.data.tables import UnsuitableError
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.modalities.image import check_image
from versatile_diffusion.plain_text.encodings import python_name

BAD_PICTURE = "bad images"
T = TypeVar("T")


@dataclass(frozen=True)
class Item:
    """One item in several modalities: for each, its raw values."""

    key: str
    values: Mapping[str, list[Any]]


@dataclass(frozen=True)
class Position:
    """The next sample to read: epoch, index of the shard in that epoch's order, index in the shard."""

    epoch: int = 0
    shard: int = 0
    sample: int = 0


START = Position()


@dataclass(frozen=True)
class Every:
    """Every n-th sample of a shard that several processes share.

    Args:
        shard: the whole shard.
        first: index of the first sample.
        step: n.
    """

    shard: Shard
    first: int
    step: int

    @property
    def path(self) -> Path:
        return self.shard.path

    @property
    def content(self) -> str:
        return f"{self.shard.content} {self.first} {self.step}"

    def samples(self, start: int) -> Iterator[Any]:
        return islice(self.shard.samples(self.first + start * self.step), 0, None, self.step)


@dataclass(frozen=True)
class Source:
    """Shards of images with captions.

    Args:
        path: as given.
        shards: sorted by name.
        left_out: files that are ignored.
        encoding: of the captions, if specified.
    """

    path: Path
    shards: tuple[Shard, ...]
    left_out: LeftOut = field(default_factory=dict)
    encoding: str | None = None

    @cached_property
    def content(self) -> str:
        """Hash of the names, sizes and times of all files, to detect changes."""
        return digest([shard.content for shard in self.shards])

    def part(self, rank: int, world: int) -> Source:
        """The shards of one of `world` processes. With fewer shards than processes, those that share one alternate
        between its samples."""
        if (there := len(self.shards)) >= world:
            return replace(self, shards=self.shards[rank::world])
        mine = rank % there
        sharing = len(range(mine, world, there))
        return replace(self, shards=(Every(self.shards[mine], rank // there, sharing),))

    def order(self, seed: int | None, epoch: int) -> list[int]:
        """Shard indices in the order of an epoch."""
        order = list(range(len(self.shards)))
        if seed is not None:
            random.Random(f"{seed}/{epoch}").shuffle(order)  # nosec B311 # reproducible order, not security
        return order

    def read(
        self,
        position: Position = START,
        report: Report | None = None,
        seed: int | None = None,
        epochs: int = 1,
        others: Sequence[str] = (),
    ) -> Iterator[tuple[Item, Position]]:
        """Yield the items from a position on, each with the position after it.

        Args:
            position: where to start; as yielded by an earlier call with the same seed.
            report: counts what is skipped: bad images, samples without a caption, the rest of damaged shards.
            seed: of the shard order, which differs between epochs; None: sorted by name.
            epochs: total number of epochs.
            others: modalities other than images and texts, see `item_of`.

        Raises:
            ValueError: too many bad samples, see `Report`.
        """
        report = report if report is not None else Report()
        yield from self.walk(partial(item_of, report=report, others=others), position, report, seed, epochs)

    def walk(
        self,
        take: Callable[[Any], T | None],
        position: Position = START,
        report: Report | None = None,
        seed: int | None = None,
        epochs: int | None = 1,
    ) -> Iterator[tuple[T, Position]]:
        """Yield `take(sample)` for each sample, except where it is None; otherwise like `read`. With `epochs=None` it
        does not end."""
        report = report if report is not None else Report()
        report.left_out = summarise(self.left_out)
        for epoch in count(position.epoch) if epochs is None else range(position.epoch, epochs):
            order = self.order(seed, epoch)
            start = position.shard if epoch == position.epoch else 0
            for place in range(start, len(order)):
                here = Position(epoch, place, position.sample if (epoch, place) == (position.epoch, start) else 0)
                if place + 1 < len(order):
                    _fetch_ahead(self.shards[order[place + 1]])
                yield from self._walk_shard(self.shards[order[place]], here, report, take)

    def _walk_shard(
        self, shard: Shard, here: Position, report: Report, take: Callable[[Any], T | None]
    ) -> Iterator[tuple[T, Position]]:
        report.shards += here.sample == 0
        samples = enumerate(shard.samples(here.sample), here.sample)
        while True:
            try:
                number, raw = next(samples)
                taken = take(raw)
            except StopIteration:
                return
            except DAMAGED as error:
                return report.skip_shard("shards cut short or damaged", f"{shard.path}: {error}")
            except UnsuitableError as error:
                if len(self.shards) == 1:
                    raise
                return report.skip_shard("files without the columns needed", str(error))
            if taken is not None:
                report.good += 1
                yield taken, Position(here.epoch, here.shard, number + 1)


def _fetch_ahead(shard: Shard) -> None:
    """Start to download a remote shard before it is read."""
    if (fetch := getattr(shard, "fetch_ahead", None)) is not None:
        fetch()


def open_source(path: str | Path, encoding: str | None = None) -> Source:
    """Open a data set of images with captions.

    Args:
        path: a folder, a file, or a pattern (`shards/train-*.tar`, `train-{000..010}.tar`). A folder holds images, each
            with a text file of the same name, one caption per line (or a JSON description), or listed in a
            `metadata.jsonl`, `.csv` or `.parquet` (`file_name`, `text`) there or below; or WebDataset shards (`*.tar`);
            or parquet files (columns `image` and `text`). If a folder has both images and shards, the more numerous
            kind is used. A `.json` file holds captions in COCO's format, see `CocoCaptions`. Shards and parquet files
            may be remote (`s3://bucket/shards`, through fsspec).
        encoding: of the captions, such as `"cp1250"`; detected by default.

    Raises:
        ValueError: nothing found, no known layout, parquet without pyarrow, or an unknown encoding.
    """
    encoding = encoding and python_name(encoding)
    if is_url(path):
        return Source(Path(path), tuple(remote_shards(str(path), encoding)), {}, encoding)
    shards, left_out = shards_in(Path(path), encoding)
    if not shards:
        if not Path(path).exists() and not is_pattern(Path(path)):
            raise ValueError(f"{path}: no such folder or file")
        there = "; ".join(f"{why} {names}" for why, names in summarise(left_out).items())
        raise ValueError(
            f"{path} has no images with captions; allowed: a folder of images, each with a .txt of the same name or "
            "all in a metadata.jsonl, .csv or .parquet; WebDataset shards (.tar); parquet; a .json of COCO captions"
            + (f"; found: {there}" if there else "")
        )
    return Source(Path(path), tuple(shards), left_out, encoding)


def item_of(raw: Raw, report: Report, others: Sequence[str] = ()) -> Item | None:
    """Read a sample; None, and counted, if it is bad.

    Args:
        raw: the sample.
        report: counts it.
        others: modalities other than images and texts, whose values are files of the same name next to the image.
    """
    with report.guard(raw.where or raw.key):
        file, captions = raw.read()
        try:
            image = check_image(file)
        except Exception as error:
            raise UnusableError(BAD_PICTURE, str(error)) from error
        report.captions.update(captions.notes)
        return Item(raw.key, pair_of(image, captions.texts) | {name: _beside(file, name) for name in others})
    return None


def pair_of(image: Any, texts: Sequence[str]) -> dict[str, list[Any]]:
    """The values of an image with captions."""
    return {"image": [image], "text": list(texts)}


def others_of(modalities: Iterable[str]) -> tuple[str, ...]:
    """The modalities other than images and texts."""
    return tuple(dict.fromkeys(name for name in modalities if name not in pair_of(None, ())))


def _beside(image: Any, name: str) -> list[Any]:
    """The values of a modality in the file next to an image."""
    modality = MODALITIES[name]
    files = [image.with_suffix(suffix) for suffix in modality.suffixes] if isinstance(image, Path) else []
    for file in files:
        if file.is_file():
            return [modality.check(value) for value in modality.read(file)]
    raise UnusableError(f"without a {modality.noun}", f"no {' or '.join(modality.suffixes)} of the same name")
