"""Images with captions in single files: WebDataset shards (tar) and parquet. What they say of their own sizes is
checked before it is believed."""

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
"""What a shard that is cut short or damaged raises while it is read."""
TOO_LARGE_IMAGE = "images too large"
MOST_IMAGE = 256 << 20
"""Bytes of an image file in an archive."""
MOST_HEADER = 1 << 20
"""Bytes of what stands before a member: long names, times."""
MOST_GAP = 64 << 20
"""Bytes in which the next header is looked for, where one is damaged."""
MOST_TABLE = 256 << 20
"""Bytes of a table in an archive."""
MOST_FIELDS = 64
"""Members of a sample that are looked at."""
IMAGE_COLUMNS = ("image", "img", "image_bytes", "picture", "jpg", "jpeg", "png", "webp")
"""Of a parquet file, for the bytes of images; in capitals or not."""
PACKINGS: dict[bytes, Callable[[BinaryIO], Any]] = {
    b"\x1f\x8b": lambda file: gzip.GzipFile(fileobj=file),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
}
"""By the first bytes of a file, how it is unpacked."""


@dataclass
class _Headers:
    """A file of which `tarfile` reads no more at once than headers may have, whatever they say of their own size.

    Args:
        file: what is read.
        ended: whether a block of zeros came, which is the end of an archive.
        tried: blocks since the last header.
    """

    file: Any
    ended: bool = False
    tried: int = 0

    def read(self, size: int = -1) -> bytes:
        self.tried += 1
        if not 0 <= size <= MOST_HEADER or self.tried > MOST_GAP // tarfile.BLOCKSIZE:
            raise tarfile.ReadError(f"no header where one should be, or one of {size:,} bytes")
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
    """The members of a sample by their endings: what gives the bytes of each, and how many they are."""

    shard: TarShard
    key: str = ""
    fields: dict[str, tuple[Callable[[], bytes], int]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    met: bool = False

    def bytes(self, ending: str, most: int, kind: str) -> bytes:
        read, size = self.fields[ending]
        if size > most:
            raise UnusableError(kind, f"{ending} has {size:,} bytes; at most {most:,} are read")
        return read()

    def named(self, endings: tuple[str, ...] | frozenset[str]) -> list[str]:
        """Those of its endings that are among these, the plainest first."""
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
        """Of files of its own, or of the shard's table."""
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
    """A WebDataset shard: files that stand together and share their name up to the first dot are one sample; an image,
    and `.txt` or `.json` for what is said of it, or a `metadata.jsonl` or `.csv` for all."""

    path: Path
    encoding: str | None = None

    @property
    def content(self) -> str:
        return _content(self.path, self.encoding)

    @cached_property
    def rows(self) -> Mapping[tuple[str, str], Mapping[str, Any]]:
        """What the tables in it say, by the names of images as `_split` has them. The first image that has no captions
        of its own asks; it may be before the table.

        Raises:
            UnusableError: a table cannot be read.
        """
        found: dict[tuple[str, str], Mapping[str, Any]] = {}
        with self._opened() as file, suppress(*DAMAGED):  # which is said when the samples there are read
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
        """The rows of a table; UnusableError if it is of a kind that is not read here, or lacks what is needed."""
        read = LINES.get(Path(info.name).suffix.lower())
        if read is None or info.size > MOST_TABLE:
            what = f"of {info.size:,} bytes" if read else "of parquet"
            raise UnusableError(NO_CAPTION, f"{printable(info.name)}, a table {what}, is not read within an archive")
        columns: dict[str, None] = {}
        for number, row in read(io.BytesIO(data), self.encoding):
            if isinstance(row, UnusableError) and not columns:
                raise UnusableError(NO_CAPTION, f"{printable(info.name)} line {number}: {row}")
            columns |= dict.fromkeys(row) if isinstance(row, Mapping) else {}
            yield row
        if columns and not (caption_fields(columns) and name_fields(columns)):
            there = ", ".join(columns)
            raise UnusableError(NO_CAPTION, f"{printable(info.name)} has the columns {there}; needed are {NEEDED}")

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        """The archive, unpacked."""
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
            except DAMAGED as error:  # after what was whole before
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
                sample.notes = ("samples beside a damaged file in their shard",)
            if info.isreg() and not info.issparse() and len(sample.fields) < MOST_FIELDS:
                sample.fields[ending.lower()] = self._field(file, info, packed)
        if sample.met:
            yield key, sample
        if broken is not None:
            raise broken

    @staticmethod
    def _field(file: Any, info: tarfile.TarInfo, packed: bool) -> tuple[Callable[[], bytes], int]:
        """What gives a member's bytes: where going back means unpacking all again, they are read at once."""
        read = partial(_bytes_at, file, info.offset_data, info.size)
        if not packed:
            return read, info.size
        if info.size > MOST_IMAGE:
            raise tarfile.ReadError(f"{printable(info.name)} has {info.size:,} bytes; at most {MOST_IMAGE:,} are read")
        data = read()
        return (lambda: data), info.size


def _members(file: Any) -> Iterator[tuple[tarfile.TarInfo, bool]]:
    """The members of an archive that are meant, without keeping them, and whether something before each is damaged.

    Raises:
        tarfile.ReadError: it breaks off: `tarfile` takes the end of the file for the end of the archive, which is a
            block of zeros.
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
    except (ValueError, LookupError, ArithmeticError, TypeError) as error:  # headers that do not make sense
        raise tarfile.ReadError(f"a header cannot be read ({error})") from error
    except tarfile.ReadError:
        if not headers.ended or end:  # else it is empty
            raise
    if not headers.ended:
        raise tarfile.ReadError(f"it breaks off after {end} bytes")


def _bytes_at(file: Any, place: int, size: int) -> bytes:
    file.seek(place)
    data: bytes = file.read(size)
    if len(data) != size:
        raise tarfile.ReadError(f"it breaks off within a member of {size:,} bytes")
    return data


def _split(name: str) -> tuple[str, str]:
    """A file's name up to the first dot (with its folders), and the rest; composed, as some systems write é in two."""
    folder, slash, last = unicodedata.normalize("NFC", name).rpartition("/")
    stem, _, ending = last.partition(".")
    return f"{folder}{slash}{stem}", ending


def _content(path: Path, encoding: str | None) -> str:
    return " ".join(filter(None, (printable(path.name), stamp(path), encoding)))


@dataclass(frozen=True)
class ParquetFile:
    """A parquet file with a column `image` (bytes, or a record with `bytes`) and captions (`text`).

    `samples` raises `UnsuitableError` where it has no such columns, or something else in them.
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
                    f"{self.path}: its column {column} holds {held}; needed are the bytes of picture files"
                )
            name = f"{printable(self.path.name)}#{number}"
            yield Raw(name, self.content, partial(_row, data, row, self.encoding))


def _data(image: Any) -> Any:
    return image.get("bytes") if isinstance(image, Mapping) else image


def _row(data: bytes | None, row: Mapping[str, Any], encoding: str | None) -> tuple[bytes, Captions]:
    if data is None:
        raise UnusableError(NO_PICTURE)
    if len(data) > MOST_IMAGE:
        raise UnusableError(TOO_LARGE_IMAGE, f"an image of {len(data):,} bytes; at most {MOST_IMAGE:,} are read")
    return data, captions_of(row, encoding)
