"""Encode items into rows of latents and context tokens; items that fail count as bad samples."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from itertools import islice
from typing import Any, TypeVar

import torch
from torch import Tensor

from versatile_diffusion.choices import unknown
from versatile_diffusion.data.buckets import Buckets, Shape, cut
from versatile_diffusion.data.captions import TOO_LONG
from versatile_diffusion.data.journal import POISONOUS, Journal
from versatile_diffusion.data.looks import Looks
from versatile_diffusion.data.report import Report
from versatile_diffusion.data.rows import DamagedError, EncodedFile
from versatile_diffusion.data.shards import Raw
from versatile_diffusion.data.sources import Item, Position, item_of, others_of
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.modalities.bank import ModalityBank
from versatile_diffusion.modalities.base import Codec
from versatile_diffusion.printable import shown

LATENTS, TOKENS = "latents", "tokens"
LONG = ("cut", "skip", "refuse")
"""Policies for captions longer than the context encoder reads."""
NOT_ENCODED = "samples that cannot be encoded"
ItemRows = dict[str, list[Tensor]]
"""The rows of an item by codec or encoder; those of one modality have the same number and order."""
T = TypeVar("T")


def encoders_of(bank: ModalityBank) -> dict[str, Any]:
    """Codecs and context encoders, by the name of their rows in the files."""
    return {f"{LATENTS}.{m}": part for m, part in bank.codecs.items()} | {
        f"{TOKENS}.{m}": part for m, part in bank.encoders.items()
    }


@dataclass(frozen=True)
class ItemEncoder:
    """The codecs and context encoders of a model.

    Args:
        bank: codecs and context encoders.
        batch: batch size.
        long: policy for long captions, one of `LONG`.
        report: counts what is truncated, skipped or bad.
        crops: rows of each value that can be cropped: the value itself and random crops of it.
    """

    bank: ModalityBank
    batch: int
    long: str
    report: Report
    crops: int = 1

    def __post_init__(self) -> None:
        if self.long not in LONG:
            raise ValueError(unknown("--long", self.long, LONG))
        if self.crops < 1:
            raise ValueError(f"crops is {self.crops}; it must be 1 or more")

    def fitted(self, item: Item) -> Item | None:
        """The item with values that the context encoders can read; None, and counted, if none remain.

        Raises:
            ValueError: a value is too long, and the policy is `refuse`.
        """
        fits: dict[str, list[tuple[Any, Any]]] | None = None
        with self.report.guard(item.key):
            encoders: dict[str, Any] = dict(self.bank.encoders.items())
            fits = {m: [(value, part.fit(value)) for value in item.values[m]] for m, part in encoders.items()}
        if fits is None:
            return None
        long = [value for pairs in fits.values() for value, fitted in pairs if fitted is not value and fitted != value]
        if not long:
            return item
        told = f"the caption {shown(long[0])} of {len(long[0]):,} characters is longer than the encoder reads"
        if self.long == "refuse":
            raise ValueError(f"{item.key}: {told}; use --long cut or --long skip")
        cut = self.long == "cut"
        kept = {
            m: [fitted for value, fitted in pairs if value not in long or (cut and fitted)] for m, pairs in fits.items()
        }
        if not all(kept.values()):
            self.report.skip(TOO_LONG, f"{item.key}: {told}")
            return None
        self.report.captions["captions cut to what the encoder reads" if cut else TOO_LONG] += len(long)
        return replace(item, values={**item.values, **kept})

    def cropped(self, item: Item) -> Item:
        """The item with the crops of its values; the same ones for the same key."""
        seed = seed_of(item.key)
        values = dict(item.values)
        for modality, whole in item.values.items():
            if (crops := MODALITIES[modality].crops) is not None:
                values[modality] = [
                    crop for k, value in enumerate(whole) for crop in crops(value, self.crops, seed + k)
                ]
        return replace(item, values=values)

    @torch.no_grad()
    def rows(self, items: Sequence[Item], shape: Shape | None) -> list[ItemRows | None]:
        """The rows of each item; None, and counted, if a modality has none. All images have one shape."""
        outcomes: dict[str, list[list[Tensor | str]]] = {}
        for name, encoder in encoders_of(self.bank).items():
            kind, modality = name.split(".")
            encode = encoder.encode
            if kind == LATENTS:
                encode = partial(latents_of, encoder, shape if MODALITIES[modality].size else None)
            values = [value for item in items for value in item.values[modality]]
            rows = iter([row for some in batches_of(values, self.batch) for row in _encode_each(encode, some)])
            outcomes[name] = [list(islice(rows, len(item.values[modality]))) for item in items]
        return [
            self._whole(item, {name: found[place] for name, found in outcomes.items()})
            for place, item in enumerate(items)
        ]

    def tried(self, item: Item | None, shape: Shape | None) -> None:
        """Encode an item and discard the result, to find out whether it crashes the process."""
        if item is not None:
            quiet = replace(self, report=Report(allowed=1.0))
            quiet.rows([item], shape)

    def _whole(self, item: Item, outcomes: dict[str, list[Tensor | str]]) -> ItemRows | None:
        """For each modality, the rows of values that all its encoders could encode."""
        rows: ItemRows = {}
        for modality, values in item.values.items():
            own = {name: found for name, found in outcomes.items() if name.split(".")[1] == modality}
            good = [k for k in range(len(values)) if all(isinstance(found[k], Tensor) for found in own.values())]
            if not good:
                reason = next(why for found in own.values() for why in found if isinstance(why, str))
                self.report.good -= 1
                self.report.skip(NOT_ENCODED, f"{item.key}: {reason}")
                return None
            if len(good) < len(values):
                self.report.captions[f"values of {modality} that cannot be encoded"] += len(values) - len(good)
            rows |= {name: [found[k] for k in good] for name, found in own.items()}  # type: ignore[misc]
        return rows


@dataclass
class Entry:
    """An item on its way into a part: raw until encoded, or with rows from an earlier run."""

    key: str
    content: str
    shape: Shape | None
    item: Item | None = None
    rows: ItemRows | None = None


@dataclass(frozen=True)
class Known:
    """Location of an item that is already encoded."""

    part: EncodedFile
    number: int


class Taking:
    """Turns samples into the entries of a part. At most one batch of images per shape waits in memory."""

    def __init__(
        self,
        encoder: ItemEncoder,
        looks: Looks,
        known: Mapping[tuple[str, str], Known],
        buckets: Buckets | None,
        journal: Journal,
    ):
        self.encoder, self.looks, self.known, self.buckets = encoder, looks, known, buckets
        self.journal = journal
        self.entries: dict[Shape | None, list[Entry]] = {}
        self.waiting: dict[Shape | None, list[Entry]] = {}

    def take(self, raw: Raw) -> Entry | None:
        """The entry of a sample; None, and counted, if it is bad."""
        known = self.known.get((raw.key, raw.content))
        if known and not self.looks.wants(raw.key):
            try:
                shape = known.part.told.get("shape")
                return Entry(raw.key, raw.content, shape and tuple(shape), rows=known.part.item(known.number))
            except (DamagedError, OSError) as error:
                warnings.warn(f"{error}; {raw.key} is encoded again", stacklevel=1)
        if self.journal.poisonous(raw.key):
            self.encoder.report.skip(POISONOUS, raw.where or raw.key)
            return None
        bank = self.encoder.bank
        with self.journal.at([raw.key]):
            item = item_of(raw, self.encoder.report, others_of([*bank.codecs, *bank.encoders]))
            item = item and self.encoder.fitted(item)
        if item is None:
            return None
        shape = None if self.buckets is None else self.buckets.nearest(item.values["image"][0])
        return Entry(raw.key, raw.content, shape, item)

    def fill(self, taken: Iterator[tuple[Entry, Position]], size: int) -> Position | None:
        """Take the next `size` entries; return the position after them, or None at the end."""
        position = None
        for entry, after in islice(taken, size):
            position = after
            self.entries.setdefault(entry.shape, []).append(entry)
            if entry.item is not None:
                waiting = self.waiting.setdefault(entry.shape, [])
                waiting.append(entry)
                if len(waiting) == self.encoder.batch:
                    self._encode(self.waiting.pop(entry.shape))
        for shape in list(self.waiting):
            self._encode(self.waiting.pop(shape))
        return position

    def _encode(self, entries: list[Entry]) -> None:
        """Encode entries of one shape together. If one of them may have crashed a process, each is tried alone first.
        If only the batch as a whole crashes, its entries are encoded one by one."""
        keys = [entry.key for entry in entries]
        if len(entries) > 1 and self.journal.too_much(keys):
            for entry in entries:
                self._encode([entry])
            return
        if not self.journal.suspects.isdisjoint(keys):
            for entry in entries:
                with self.journal.at([entry.key]):
                    self.encoder.tried(entry.item, entry.shape)
        items = [entry.item for entry in entries if entry.item is not None]
        with self.journal.at(keys):
            rows = self.encoder.rows([self.encoder.cropped(item) for item in items], entries[0].shape)
        for entry, item, found in zip(entries, items, rows, strict=True):
            entry.rows = found
            if found is not None:
                self.looks.keep(item)
            entry.item = None

    def drain(self) -> dict[Shape | None, list[Entry]]:
        """Remove and return the usable entries, by shape."""
        entries, self.entries = self.entries, {}
        good = {shape: [e for e in some if e.rows is not None] for shape, some in entries.items()}
        return {shape: some for shape, some in good.items() if some}


def seed_of(key: str) -> int:
    """The seed of an item's crops."""
    return int.from_bytes(sha256(key.encode("utf-8", "surrogateescape")).digest()[:8], "big")


def _encode_each(encode: Callable[[list[Any]], Tensor], values: list[Any]) -> list[Tensor | str]:
    """A row or an error message for each value. If a batch fails, its values are encoded one by one."""
    try:
        rows = list(encode(values).half().cpu())
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        if len(values) == 1:
            return [" ".join(str(error).split()) or type(error).__name__]
        return [row for value in values for row in _encode_each(encode, [value])]
    return [row if bool(row.isfinite().all()) else "the result is not finite in half precision" for row in rows]


def latents_of(codec: Codec, shape: Shape | None, values: Sequence[Any]) -> Tensor:
    """Latents of values at the codec's own size, or of images at another shape."""
    if shape is None:
        return codec.encode([codec.fit(value) for value in values])
    return codec.encode([cut(value, shape) for value in values], height=shape[0], width=shape[1])


def batches_of(values: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of `size` values; the last one may be shorter."""
    rest = iter(values)
    while some := list(islice(rest, size)):
        yield some
