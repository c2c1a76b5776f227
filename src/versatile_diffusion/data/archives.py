"""Images with captions in single files: WebDataset shards (tar) and parquet. Declared sizes are checked before they are
trusted."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import unicodedata
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from io import BufferedReader
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

from versatile_diffusion.data.captions import (
    MOST_BYTES,
    NO_CAPTION,
    TOO_LARGE,
    Captions,
    UnusableError,
    caption_fields,
    captions_in,
    captions_of,
)
from versatile_diffusion.data.listing import IMAGES, TEXTS, is_meant, printable
from versatile_diffusion.data.shards import DESCRIPTION, METADATA, Raw, stamp
from versatile_diffusion.data.tables import (
    LINES,
    NEEDED,
    NO_PICTURE,
    Row,
    UnsuitableError,
    name_fields,
    name_in,
    parquet_rows,
)

DAMAGED = (tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, OSError)
"""Exceptions raised while reading a truncated or damaged shard."""
TOO_LARGE_IMAGE = "images too large"
MOST_IMAGE = 256 << 20
"""Maximum size of an image file in an archive, in bytes."""
MOST_HEADER = 1 << 20
"""Maximum size of a member's header with its extensions (long names, times), in bytes."""
MOST_GAP = 64 << 20
"""How far to search for the next header after a damaged one, in bytes."""
MOST_TABLE = 256 << 20
"""Maximum size of a table in an archive, in bytes."""
MOST_FIELDS = 64
"""Maximum number of members per sample; further ones are ignored."""
IMAGE_COLUMNS = ("image", "img", "image_bytes", "picture", "jpg", "jpeg", "png", "webp")
"""Parquet columns that may hold encoded images; case-insensitive."""
PACKINGS: dict[bytes, Callable[[BinaryIO], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
}
"""Decompressors by magic number."""


@dataclass
class _Headers:
    """A file that limits what `tarfile` reads for one header, whatever size the header declares.

    Args:
        file: the underlying file.
        ended: whether a block of zeros was read, which marks the end of an archive.
        tried: blocks read since the last header.
    """

    file: Any
    ended: bool = False
    tried: int = 0

    def read(self, size: int = -1) -> bytes:
        self.tried += 1
        if not 0 <= size <= MOST_HEADER or self.tried > MOST_GAP // tarfile.BLOCKSIZE:
            raise tarfile.ReadError(f"no valid header, or a header of {size:,} bytes")
        data = self.file.read(size)
        self.ended = size == tarfile.BLOCKSIZE and data == bytes(size)
        return b"" if self.ended else data

    def seek(self, place: int) -> int:
        reached: int = self.file.seek(place)
        return reached

    def tell(self) -> int:
        place: int = self.file.tell()
        return place


@dataclass
class _Sample:
    """The members of a sample by extension: a function that reads each, and its size in bytes."""

    shard: TarShard
    key: str = ""
    fields: dict[str, tuple[Callable[[], bytes], int]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    met: bool = False

    def bytes(self, ending: str, most: int, kind: str) -> bytes:
        read, size = self.fields[ending]
        if size > most:
            raise UnusableError(kind, f"{ending} has {size:,} bytes; the limit is {most:,}")
        return read()

    def named(self, endings: tuple[str, ...] | frozenset[str]) -> list[str]:
        """Extensions of this sample that are among `endings`, simplest first."""
        found = (name for name in self.fields if f".{name.rpartition('.')[2]}" in endings)
        return sorted(found, key=lambda name: name.count("."))

    def read(self) -> tuple[bytes, Captions]:
        images = self.named(IMAGES)
        if not images:
            raise UnusableError(NO_PICTURE)
        captions = self._captions(images[0])
        captions = replace(captions, notes=(*captions.notes, *self.notes))
        return self.bytes(images[0], MOST_IMAGE, TOO_LARGE_IMAGE), captions

    def _captions(self, image: str) -> Captions:
        """Captions from the sample's own members, else from the shard's table."""
        encoding, problem = self.shard.encoding, UnusableError(NO_CAPTION)
        for ending in (*self.named(TEXTS), *self.named((DESCRIPTION,))):
            try:
                data = self.bytes(ending, MOST_BYTES, TOO_LARGE)
                return captions_in(data, ending.endswith(DESCRIPTION.lstrip(".")), encoding)
            except UnusableError as error:
                if error.kind != NO_CAPTION:
                    problem = error
        if (row := self.shard.rows.get((self.key, image))) is not None:
            return captions_of(row, encoding)
        raise problem


@dataclass(frozen=True)
class TarShard:
    """A WebDataset shard. Adjacent files with the same name up to the first dot form a sample: an image, and captions
    in `.txt` or `.json`, or in one `metadata.jsonl` or `.csv` for the whole shard."""

    path: Path
    encoding: str | None = None

    @property
    def content(self) -> str:
        return _content(self.path, self.encoding)

    @cached_property
    def rows(self) -> Mapping[tuple[str, str], Mapping[str, Any]]:
        """Rows of the tables in the shard, by image name as `_split` returns it. Read when the first image without its
        own captions is met, which may come before the table.

        Raises:
            UnusableError: a table cannot be read.
        """
        found: dict[tuple[str, str], Mapping[str, Any]] = {}
        with self._opened() as file, suppress(*DAMAGED):  # reported when the samples are read
            for info, _ in _members(file):
                folder, slash, name = info.name.rpartition("/")
                if name.lower() not in METADATA or not info.isreg() or info.issparse():
                    continue
                for row in self._table(_bytes_at(file, info.offset_data, min(info.size, MOST_TABLE)), info):
                    if isinstance(image := name_in(row), str) and isinstance(row, Mapping):
                        stem, ending = _split(f"{folder}{slash}{image.replace(chr(92), '/').removeprefix('./')}")
                        found[stem, ending.lower()] = row
        return found

    def _table(self, data: bytes, info: tarfile.TarInfo) -> Iterator[Row]:
        """Yield the rows of a table; UnusableError if its format is not supported here or columns are missing."""
        read = LINES.get(Path(info.name).suffix.lower())
        if read is None or info.size > MOST_TABLE:
            what = f"of {info.size:,} bytes" if read else "of parquet"
            raise UnusableError(NO_CAPTION, f"{printable(info.name)}: a table {what} in an archive is not supported")
        columns: dict[str, None] = {}
        for number, row in read(io.BytesIO(data), self.encoding):
            if isinstance(row, UnusableError) and not columns:
                raise UnusableError(NO_CAPTION, f"{printable(info.name)} line {number}: {row}")
            columns |= dict.fromkeys(row) if isinstance(row, Mapping) else {}
            yield row
        if columns and not (caption_fields(columns) and name_fields(columns)):
            there = ", ".join(columns)
            raise UnusableError(NO_CAPTION, f"{printable(info.name)} has the columns {there}; required: {NEEDED}")

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        """Open the archive, decompressed."""
        with self.path.open("rb") as plain:
            first = plain.read(6)
            plain.seek(0)
            packing = next((opened for magic, opened in PACKINGS.items() if first.startswith(magic)), None)
            yield plain if packing is None else packing(plain)

    def samples(self, start: int) -> Iterator[Raw]:
        with self._opened() as file:
            for key, sample in islice(self._samples(file, not isinstance(file, BufferedReader)), start, None):
                yield Raw(printable(key), self.content, sample.read)

    def _samples(self, file: Any, packed: bool) -> Iterator[tuple[str, _Sample]]:
        key, sample, broken = "", _Sample(self), None
        members = _members(file)
        while True:
            try:
                info, gap = next(members)
            except StopIteration:
                break
            except DAMAGED as error:  # raised after the complete samples
                broken = error
                break
            if info.name.rpartition("/")[2].lower() in METADATA:
                continue
            name, ending = _split(info.name)
            if name != key and sample.met:
                yield key, sample
                sample = _Sample(self)
            key = sample.key = name
            sample.met = True
            if gap:
                sample.notes = ("samples next to a damaged file in their shard",)
            if info.isreg() and not info.issparse() and len(sample.fields) < MOST_FIELDS:
                sample.fields[ending.lower()] = self._field(file, info, packed)
        if sample.met:
            yield key, sample
        if broken is not None:
            raise broken

    @staticmethod
    def _field(file: Any, info: tarfile.TarInfo, packed: bool) -> tuple[Callable[[], bytes], int]:
        """A function that returns a member's bytes. In compressed archives, where seeking back would decompress
        everything again, they are read immediately."""
        read = partial(_bytes_at, file, info.offset_data, info.size)
        if not packed:
            return read, info.size
        if info.size > MOST_IMAGE:
            raise tarfile.ReadError(f"{printable(info.name)} has {info.size:,} bytes; the limit is {MOST_IMAGE:,}")
        data = read()
        return (lambda: data), info.size


def _members(file: Any) -> Iterator[tuple[tarfile.TarInfo, bool]]:
    """Yield the members of an archive without hidden and system files, and whether data before each is damaged.

    Raises:
        tarfile.ReadError: the archive is truncated. `tarfile` accepts the end of the file as the end of the archive,
            which should be a block of zeros.
    """
    headers, end, gap = _Headers(file), 0, False
    try:
        archive = tarfile.TarFile(fileobj=headers, ignore_zeros=True)  # type: ignore[arg-type]  # damaged headers too
        while (info := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined]
            gap |= info.offset > end
            end, headers.tried = archive.offset, 0
            if not info.isdir() and is_meant(info.name):
                yield info, gap
                gap = False
    except (ValueError, LookupError, ArithmeticError, TypeError) as error:  # invalid headers
        raise tarfile.ReadError(f"invalid header ({error})") from error
    except tarfile.ReadError:
        if not headers.ended or end:  # else the archive is empty
            raise
    if not headers.ended:
        raise tarfile.ReadError(f"truncated after {end} bytes")


def _bytes_at(file: Any, place: int, size: int) -> bytes:
    file.seek(place)
    data: bytes = file.read(size)
    if len(data) != size:
        raise tarfile.ReadError(f"truncated within a member of {size:,} bytes")
    return data


def _split(name: str) -> tuple[str, str]:
    """A file's path up to the first dot of its name, and the rest; in NFC, since some systems decompose characters."""
    folder, slash, last = unicodedata.normalize("NFC", name).rpartition("/")
    stem, _, ending = last.partition(".")
    return f"{folder}{slash}{stem}", ending


def _content(path: Path, encoding: str | None) -> str:
    return " ".join(filter(None, (printable(path.name), stamp(path), encoding)))


@dataclass(frozen=True)
class ParquetFile:
    """A parquet file with a column `image` (bytes, or a record with `bytes`) and captions (`text`).

    `samples` raises `UnsuitableError` if these columns are missing or hold other types.
    """

    path: Path
    encoding: str | None = None

    @property
    def content(self) -> str:
        return _content(self.path, self.encoding)

    def samples(self, start: int) -> Iterator[Raw]:
        rows = parquet_rows(self.path, IMAGE_COLUMNS)
        for number, row in enumerate(islice(rows, start, None), start):
            column = next(name for name in row if name.lower() in IMAGE_COLUMNS)
            data = _data(row[column])
            if not isinstance(data, bytes | None):
                held = type(data).__name__
                raise UnsuitableError(
                    f"{self.path}: its column {column} holds {held}; required: the bytes of image files"
                )
            name = f"{printable(self.path.name)}#{number}"
            yield Raw(name, self.content, partial(_row, data, row, self.encoding))


def _data(image: Any) -> Any:
    return image.get("bytes") if isinstance(image, Mapping) else image


def _row(data: bytes | None, row: Mapping[str, Any], encoding: str | None) -> tuple[bytes, Captions]:
    if data is None:
        raise UnusableError(NO_PICTURE)
    if len(data) > MOST_IMAGE:
        raise UnusableError(TOO_LARGE_IMAGE, f"the image has {len(data):,} bytes; the limit is {MOST_IMAGE:,}")
    return data, captions_of(row, encoding)
