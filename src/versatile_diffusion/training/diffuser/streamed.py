"""Training on streamed sets of any size: samples are read, and encoded unless precomputed, while training."""

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
"""One in `HELD_OUT` samples of the first shard is held out, at most `MOST_HELD_OUT`; `MOST_LOOKS` are shown."""
Opened = tuple[Any, Hashable]
"""A sample, and the shape of its batch."""


@dataclass(frozen=True)
class StreamSettings:
    """Settings of streamed sets.

    Args:
        sets: folders, patterns or URLs, all raw or all encoded, each with its weight.
        window: size of each lane's shuffle buffer.
        allowed: share of samples, and of shards, that may be bad.
        long: policy for captions that are too long, one of `LONG`.
    """

    sets: tuple[tuple[str, float], ...]
    window: int = WINDOW
    allowed: float = 0.05
    long: str = "cut"

    def __post_init__(self) -> None:
        if not self.sets or any(not weight > 0 for _, weight in self.sets):
            raise ValueError(f"sets are {dict(self.sets)}; at least one is required, with weights above 0")
        if self.window < 1:
            raise ValueError(f"window is {self.window}; it must be 1 or more")

    @classmethod
    def parsed(cls, words: Sequence[str], **options: Any) -> StreamSettings:
        """Parse `SET` or `SET@WEIGHT`."""
        return cls(tuple(parse_weight(word) for word in words), **options)


def parse_weight(word: str) -> tuple[str, float]:
    """Split `SET` or `SET@WEIGHT` into a set and its weight."""
    name, sign, weight = word.rpartition("@")
    try:
        return (name, float(weight)) if sign and name else (word, 1.0)
    except ValueError:  # the @ is part of the name
        return word, 1.0


@dataclass(frozen=True)
class RawReader:
    """Images with captions, encoded while training.

    Args:
        bank: codecs and encoders.
        long: policy for captions that are too long, one of `LONG`.
        buckets: shapes to crop images to; default: the codec's own size.
        held_out: keys of held-out samples.
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
        """The items of a batch, encoded when drawn."""

        def side(kind: str, modality: str, part: Any) -> Drawn:
            encode = part.encode
            if kind == LATENTS:
                encode = partial(latents_of, part, shape if MODALITIES[modality].size else None)
            return Drawn([item.values[modality] for item in items], encode)

        return _pairs(self.bank, len(items), side)


def _pairs(bank: ModalityBank, count: int, side: Callable[[str, str, Any], Side]) -> Pairs:
    """Items of a batch. `side(kind, modality, part)` returns their values; `part` encodes them."""
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
        device: to train on.
        held_out: keys of held-out items.
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
    """Streamed training items, with held-out items and original items for sample sheets.

    Args:
        stream: of samples.
        reader: turns samples into batches.
        held_out: held-out items.
        looks: some of them in their original form.
        remark: a summary of the sets.
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
        """Like `Pairs.batches`; read from lane `number` of `count`."""
        sizes = partial(_sizes, wanted)
        for shape, items in self.stream.batches(step, number, count, sizes):
            yield self.reader.pairs(items, shape), torch.arange(len(items))

    def counts(self) -> dict[str, float]:
        """Numbers of good and bad samples and of bad shards that this process has read since its start."""
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
    """Open the sets.

    Raises:
        ValueError: nothing found, a mix of raw and encoded sets, sets encoded by another model, or fewer than two
            samples in the first shard.
    """
    names = [name for name, _ in settings.sets]
    encoded = [name for name in names if is_encoded(name)]
    if encoded and len(encoded) < len(names):
        raise ValueError(f"{', '.join(encoded)} are encoded and the other sets are raw; use sets of one kind")
    if encoded and buckets is not None:
        raise ValueError(
            f"{encoded[0]} is already encoded with fixed shapes; `versatile data encode --aspect` keeps aspect ratios"
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
    """Held-out samples of the first shard, chosen by name: as pairs, some as original items, and all their keys."""
    report = Report(settings.allowed)
    first = replace(source, shards=source.shards[:1])
    keys = sorted((key for key, _ in first.walk(_key, report=report)), key=rank)
    wanted = keys[: min(max(1, len(keys) // HELD_OUT), MOST_HELD_OUT)]
    if len(keys) < 2:
        raise ValueError(
            f"{first.shards[0].path} has {len(keys)} samples; at least two are needed, one of them held out"
        )
    opened: list[Any] = []
    look: Any = reader

    def take(raw: Any) -> bool | None:
        if raw.key in wanted and (kept := look.keep(raw, report)) and (found := look.open(kept[0], report)):
            opened.append((kept, found))
        return None

    list(first.walk(take))
    if not opened:
        raise ValueError(f"all held-out samples of {first.shards[0].path} are bad: {report}")
    shape = opened[0][0][1]
    same = [found for kept, found in opened if kept[1] == shape]
    looks = same[:MOST_LOOKS] if isinstance(reader, RawReader) else _kept_looks(source, wanted)
    return reader.pairs(same, shape), looks, wanted


def _key(raw: Raw) -> str:
    return raw.key


def _kept_looks(source: Source, keys: Sequence[str]) -> list[Item]:
    """Original items that are kept with an encoded set."""
    shard = source.shards[0]
    assert isinstance(shard, EncodedShard)
    folder = shard.folder
    if not (folder / FOLDER).is_dir():
        raise ValueError(f"{folder} has no original items in {FOLDER}/; encode it again")
    return EncodedSet.open(folder).looks(keys)[:MOST_LOOKS]
