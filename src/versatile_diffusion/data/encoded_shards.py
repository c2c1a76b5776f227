"""Encoded sets read as shards: in order, file by file, without the whole index in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from versatile_diffusion.data.encoded import INDEX, SETS, EncodedSet, read_index
from versatile_diffusion.data.remote import CACHE, Cache, is_url
from versatile_diffusion.data.rows import DamagedError, EncodedFile
from versatile_diffusion.data.shards import Shard
from versatile_diffusion.data.sources import Source


@dataclass(frozen=True)
class EncodedItem:
    """An item in a file of an encoded set.

    Args:
        shard: the shard it comes from.
        told: the file's entry in the index.
        part: the file.
        number: of the item in the file.
    """

    shard: EncodedShard
    told: Mapping[str, Any]
    part: EncodedFile
    number: int

    @property
    def key(self) -> str:
        key: str = self.told["keys"][self.number]
        return key

    @property
    def shape(self) -> tuple[int, ...] | None:
        """Shape that its image was cropped to."""
        shape = self.told.get("shape")
        return tuple(shape) if shape else None

    def rows(self) -> dict[str, list[Tensor]]:
        """Latents and tokens, by kind and modality.

        Raises:
            DamagedError: they have changed since they were written.
        """
        try:
            return self.part.item(self.number)
        except OSError:  # evicted from the cache in the meantime
            return EncodedFile.open(self.shard.folder, self.told).item(self.number)


@dataclass(frozen=True)
class EncodedShard:
    """An encoded set, or one file of it.

    Args:
        where: the folder, or its URL.
        cache: for remote sets.
        told: the file's entry in the index; None for the whole set.
    """

    where: str
    cache: Cache = field(default_factory=lambda: CACHE)
    told: Mapping[str, Any] | None = None

    @property
    def path(self) -> Path:
        return Path(self.where)

    @property
    def content(self) -> str:
        return self.where if self.told is None else f"{self.where} {self.told['file']}"

    @property
    def folder(self) -> Path:
        """Local folder."""
        return self.cache.local(self.where) if is_url(self.where) else Path(self.where)

    def fetch_ahead(self) -> None:
        if is_url(self.where):
            self.cache.ahead(self.where)

    def samples(self, start: int) -> Iterator[EncodedItem]:
        if is_url(self.where):
            with self.cache.held(self.where):
                yield from self._items(start)
        else:
            yield from self._items(start)

    def _items(self, start: int) -> Iterator[EncodedItem]:
        parts = EncodedSet.open(self.folder).index["parts"] if self.told is None else [self.told]
        for told in parts:
            if start >= len(told["keys"]):
                start -= len(told["keys"])
                continue
            try:
                part = EncodedFile.open(self.folder, told)
            except DamagedError as error:  # handled like any other unreadable shard
                raise OSError(str(error)) from error
            yield from (EncodedItem(self, told, part, number) for number in range(start, len(told["keys"])))
            start = 0


def encoded_source(path: str) -> tuple[Source, dict[str, Any]]:
    """The shards of an encoded set, and its index.

    Raises:
        ValueError: no complete set.
    """
    folder = CACHE.local(f"{path.rstrip('/')}/{INDEX}").parent if is_url(path) else Path(path)
    index = read_index(folder / INDEX)
    if not index["finished"]:
        raise ValueError(f"{path} is not complete; run `versatile data encode` again")
    shards: list[Shard]
    if names := index.get(SETS):
        shards = [EncodedShard(f"{path.rstrip('/')}/{name}") for name in names]
    elif is_url(path):
        shards = [EncodedShard(path)]
    else:
        shards = [EncodedShard(path, told=told) for told in index["parts"]]
    return Source(Path(path), tuple(shards)), index


def is_encoded(path: str) -> bool:
    """Whether a folder or URL holds an encoded set."""
    if not is_url(path):
        return (Path(path) / INDEX).is_file()
    from fsspec.core import url_to_fs

    system, there = url_to_fs(path)
    return bool(system.exists(f"{there.rstrip('/')}/{INDEX}"))
