"""Training on sets of any size: samples that are read, and encoded unless they are already, as they are trained on."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from versatile_diffusion.data.buckets import Buckets, Shape
from versatile_diffusion.data.captions import Captions
from versatile_diffusion.data.encoded import EncodedSet
from versatile_diffusion.data.encoded_shards import EncodedItem, EncodedShard, encoded_source, is_encoded
from versatile_diffusion.data.encoder import LATENTS, TOKENS, ItemEncoder, encoders_of, latents_of
from versatile_diffusion.data.looks import FOLDER, rank
from versatile_diffusion.data.report import Report
from versatile_diffusion.data.rows import DamagedError
from versatile_diffusion.data.shards import Raw
from versatile_diffusion.data.sources import Item, Source, item_of, open_source, others_of
from versatile_diffusion.data.stream import WINDOW, Share, Stream
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.modalities.bank import ModalityBank
from versatile_diffusion.modalities.image import check_image
from versatile_diffusion.tasks import Task
from versatile_diffusion.training.diffuser.pairs import Drawn, Pairs, Picked, Side

HELD_OUT, MOST_HELD_OUT, MOST_LOOKS = 20, 256, 12
"""Of the first shard, one sample in so many is not trained on; at most so many; and so many are shown."""
Opened = tuple[Any, Hashable]
"""A sample, and the shape of its batch."""


@dataclass(frozen=True)
class StreamSettings:
    """Which sets are read while training, and how.

    Args:
        sets: folders, patterns or URLs, raw or encoded alike, each with its weight.
        window: samples of each lane that wait to be drawn in any order.
        allowed: share of samples, and of shards, that may be bad.
        long: what becomes of captions that are too long, one of `LONG`.
    """

    sets: tuple[tuple[str, float], ...]
    window: int = WINDOW
    allowed: float = 0.05
    long: str = "cut"

    def __post_init__(self) -> None:
        if not self.sets or any(not weight > 0 for _, weight in self.sets):
            raise ValueError(f"sets are {dict(self.sets)}; at least one is needed, and weights must be above 0")
        if self.window < 1:
            raise ValueError(f"window is {self.window}; it must be 1 or more")

    @classmethod
    def parsed(cls, words: Sequence[str], **options: Any) -> StreamSettings:
        """From `SET` or `SET@WEIGHT`."""
        return cls(tuple(parse_weight(word) for word in words), **options)


def parse_weight(word: str) -> tuple[str, float]:
    """A set and its weight, from `SET` or `SET@WEIGHT`."""
    name, sign, weight = word.rpartition("@")
    try:
        return (name, float(weight)) if sign and name else (word, 1.0)
    except ValueError:  # the sign belongs to the name
        return word, 1.0


@dataclass(frozen=True)
class RawReader:
    """Images with captions, encoded when they are trained on.

    Args:
        bank: whose encoders must be able to read the captions.
        long: one of `LONG`.
        buckets: shapes to cut images to; the codec's own size where left out.
        held_out: keys of samples that are not trained on.
    """

    bank: ModalityBank
    long: str
    buckets: Buckets | None = None
    held_out: frozenset[str] = frozenset()

    def keep(self, raw: Raw, report: Report) -> tuple[Raw, Shape | None] | None:
        if raw.key in self.held_out:
            return None
        with report.guard(raw.where or raw.key):
            file, captions = raw.read()
            shape = None if self.buckets is None else self.buckets.shapes[0]
            if self.buckets is not None and len(self.buckets.shapes) > 1:
                shape = self.buckets.nearest(check_image(file))
            return replace(raw, read=partial(_as_read, file, captions)), shape
        return None

    def open(self, kept: Raw, report: Report) -> Item | None:
        item = item_of(kept, report, others_of([*self.bank.codecs, *self.bank.encoders]))
        return item and ItemEncoder(self.bank, 1, self.long, report).fitted(item)

    def pairs(self, items: Sequence[Item], shape: Any) -> Pairs:
        """The items of a batch, encoded as they are drawn."""

        def side(kind: str, modality: str, part: Any) -> Drawn:
            encode = part.encode
            if kind == LATENTS:
                encode = partial(latents_of, part, shape if MODALITIES[modality].size else None)
            return Drawn([item.values[modality] for item in items], encode)

        return _pairs(self.bank, len(items), side)


def _pairs(bank: ModalityBank, count: int, side: Callable[[str, str, Any], Side]) -> Pairs:
    """Items of a batch. `side` gives the values of a kind and modality, and is given the part that encodes them."""
    sides: dict[str, dict[str, Side]] = {LATENTS: {}, TOKENS: {}}
    for name, part in encoders_of(bank).items():
        kind, modality = name.split(".")
        sides[kind][modality] = side(kind, modality, part)
    return Pairs(count, sides[LATENTS], sides[TOKENS])


def _as_read(file: bytes | Path, captions: Captions) -> tuple[bytes | Path, Captions]:
    return file, captions


@dataclass(frozen=True)
class EncodedReader:
    """Items of encoded sets.

    Args:
        bank: that encoded them.
        device: where they are trained on.
        held_out: keys of items that are not trained on.
    """

    bank: ModalityBank
    device: torch.device
    held_out: frozenset[str] = frozenset()

    def keep(self, item: EncodedItem, report: Report) -> tuple[EncodedItem, Hashable] | None:
        return None if item.key in self.held_out else (item, item.shape)

    def open(self, kept: EncodedItem, report: Report) -> dict[str, list[Tensor]] | None:
        try:
            return kept.rows()
        except (DamagedError, OSError) as error:
            report.skip("damaged items", f"{kept.key}: {error}")
            return None

    def pairs(self, items: Sequence[Mapping[str, list[Tensor]]], shape: Hashable) -> Pairs:
        def side(kind: str, modality: str, _part: Any) -> Picked:
            return Picked([item[f"{kind}.{modality}"] for item in items], self.device)

        return _pairs(self.bank, len(items), side)


@dataclass
class Streamed:
    """What the diffuser is trained on, read as it is needed; held-out samples and those that are shown besides.

    Args:
        stream: of samples.
        reader: what makes a batch of them.
        held_out: samples that are not trained on.
        looks: some of them, as they were.
        remark: what there is to say of the sets.
    """

    stream: Stream[Any]
    reader: RawReader | EncodedReader
    held_out: Pairs
    looks: list[Item]
    remark: str = ""

    def batches(
        self,
        wanted: Callable[[int], Sequence[tuple[Task, int]]],
        step: int,
        number: int,
        count: int,
        generator: torch.Generator,
    ) -> Iterator[tuple[Pairs, Tensor]]:
        """As of `Pairs`; lane `number` of `count` gives them."""
        sizes = partial(_sizes, wanted)
        for shape, items in self.stream.batches(step, number, count, sizes):
            yield self.reader.pairs(items, shape), torch.arange(len(items))

    def counts(self) -> dict[str, float]:
        """Samples that this process has read since it began, the good and the bad ones, and shards that broke off."""
        reports = self.stream.reports()
        return {
            "read/good": float(sum(report.good for report in reports)),
            "read/bad": float(sum(report.bad.total() for report in reports)),
            "read/bad_shards": float(sum(report.bad_shards.total() for report in reports)),
        }


def _sizes(wanted: Callable[[int], Sequence[tuple[Task, int]]], step: int) -> list[int]:
    return [size for _, size in wanted(step)]


def open_sets(
    settings: StreamSettings, bank: ModalityBank, device: torch.device, buckets: Buckets | None, encoding: str | None
) -> Streamed:
    """The sets, opened.

    Raises:
        ValueError: there is nothing of that kind, some are encoded and others not, another model encoded them, or the
            first shard has no two samples.
    """
    names = [name for name, _ in settings.sets]
    encoded = [name for name in names if is_encoded(name)]
    if encoded and len(encoded) < len(names):
        raise ValueError(f"{', '.join(encoded)} are encoded and the other sets are not; give sets of one kind")
    if encoded and buckets is not None:
        raise ValueError(
            f"{encoded[0]} is encoded, and its shapes are settled; `versatile data encode --aspect` keeps them"
        )
    reader: RawReader | EncodedReader
    if encoded:
        sources = [_check_sets(name, bank) for name in names]
        reader = EncodedReader(bank, device)
    else:
        sources = [open_source(name, encoding) for name in names]
        reader = RawReader(bank, settings.long, buckets)
    held_out, looks, keys = _held_out(sources[0], reader, settings)
    reader = replace(reader, held_out=frozenset(keys))
    shares = [Share(source, reader, weight) for source, (_, weight) in zip(sources, settings.sets, strict=True)]
    told = "; ".join(f"{s.path}: {len(s.shards)} shards" for s in sources)
    return Streamed(Stream(shares, settings.window, settings.allowed), reader, held_out, looks, told)


def _check_sets(name: str, bank: ModalityBank) -> Source:
    source, index = encoded_source(name)
    EncodedSet(Path(name), index).check(bank)
    return source


def _held_out(
    source: Source, reader: RawReader | EncodedReader, settings: StreamSettings
) -> tuple[Pairs, list[Item], list[str]]:
    """Samples of the first shard, by their names: as pairs, some as they were, and all their keys."""
    report = Report(settings.allowed)
    first = replace(source, shards=source.shards[:1])
    keys = sorted((key for key, _ in first.walk(_key, report=report)), key=rank)
    wanted = keys[: min(max(1, len(keys) // HELD_OUT), MOST_HELD_OUT)]
    if len(keys) < 2:
        raise ValueError(f"{first.shards[0].path} has {len(keys)} samples; one must be held out, so two are needed")
    opened: list[Any] = []
    look: Any = reader

    def take(raw: Any) -> bool | None:
        if raw.key in wanted and (kept := look.keep(raw, report)) and (found := look.open(kept[0], report)):
            opened.append((kept, found))
        return None

    list(first.walk(take))
    if not opened:
        raise ValueError(f"none of the samples of {first.shards[0].path} that were to be held out is good: {report}")
    shape = opened[0][0][1]
    same = [found for kept, found in opened if kept[1] == shape]
    looks = same[:MOST_LOOKS] if isinstance(reader, RawReader) else _kept_looks(source, wanted)
    return reader.pairs(same, shape), looks, wanted


def _key(raw: Raw) -> str:
    return raw.key


def _kept_looks(source: Source, keys: Sequence[str]) -> list[Item]:
    """Items that were kept as they were beside the encoded ones."""
    shard = source.shards[0]
    assert isinstance(shard, EncodedShard)
    folder = shard.folder
    if not (folder / FOLDER).is_dir():
        raise ValueError(f"{folder} has no {FOLDER}/, the items that are shown; encode it anew")
    return EncodedSet.open(folder).looks(keys)[:MOST_LOOKS]
