"""Encoded sets as shards: their items are read in an order, file by file, without an index of all in memory."""

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
        shard: that it was read from.
        told: what the index says of the file.
        part: the file.
        number: of the item in it.
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
        """What its image was cut to."""
        shape = self.told.get("shape")
        return tuple(shape) if shape else None

    def rows(self) -> dict[str, list[Tensor]]:
        """Its latents and tokens, by kind and modality.

        Raises:
            DamagedError: they are not what was written.
        """
        try:
            return self.part.item(self.number)
        except OSError:  # the cache made room since
            return EncodedFile.open(self.shard.folder, self.told).item(self.number)


@dataclass(frozen=True)
class EncodedShard:
    """An encoded set, or one file of it.

    Args:
        where: the folder, or its URL.
        cache: for sets on other machines.
        told: of the file, what the index says; the whole set where left out.
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
        """On this machine."""
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
            except DamagedError as error:  # as of any other shard that cannot be read
                raise OSError(str(error)) from error
            yield from (EncodedItem(self, told, part, number) for number in range(start, len(told["keys"])))
            start = 0


def encoded_source(path: str) -> tuple[Source, dict[str, Any]]:
    """The shards of an encoded set, and its index.

    Raises:
        ValueError: there is no whole set.
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
    """Whether a folder, or a URL, is that of an encoded set."""
    if not is_url(path):
        return (Path(path) / INDEX).is_file()
    from fsspec.core import url_to_fs

    system, there = url_to_fs(path)
    return bool(system.exists(f"{there.rstrip('/')}/{INDEX}"))
