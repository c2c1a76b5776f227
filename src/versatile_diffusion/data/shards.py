"""What pictures with captions lie in: folders, WebDataset shards (tar), parquet files; each is read from any sample."""

from __future__ import annotations

import json
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any, Protocol

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
CAPTIONS = ("captions", "caption", "texts", "text")
"""Fields of a sample's description that hold a caption, or a list of them; the first that there is counts."""

METADATA = "metadata.jsonl"
NO_PICTURE, NO_CAPTION = "without a picture", "without a caption"
DAMAGED = (tarfile.TarError, zlib.error, EOFError, OSError)
"""What a shard that is cut short or damaged raises while it is read."""


@dataclass(frozen=True)
class Raw:
    """A sample as it lies there: the picture's file or its bytes, captions; `problem` if it is none."""

    key: str
    picture: bytes | Path | None
    captions: list[str]

    @property
    def problem(self) -> str:
        return NO_PICTURE if self.picture is None else "" if self.captions else NO_CAPTION


class Shard(Protocol):
    """Samples that are read in a fixed order."""

    @property
    def path(self) -> Path:
        """The file or the folder."""

    def samples(self, start: int) -> Iterator[Raw]:
        """From number `start` on. Raises one of `DAMAGED` where the shard breaks off."""


@dataclass(frozen=True)
class TextFiles:
    """A folder of pictures, each with its captions in a text file of the same name, one a line."""

    path: Path

    def samples(self, start: int) -> Iterator[Raw]:
        for picture in islice(pictures_in(self.path), start, None):
            text = picture.with_suffix(".txt")
            lines = text.read_text(encoding="utf-8-sig", errors="replace").splitlines() if text.is_file() else []
            yield Raw(picture.relative_to(self.path).as_posix(), picture, _captions({"text": lines}))


@dataclass(frozen=True)
class Metadata:
    """A folder with `metadata.jsonl`: on each line a `file_name` and a `text` (Hugging Face's image folder)."""

    path: Path

    def samples(self, start: int) -> Iterator[Raw]:
        lines = (self.path / METADATA).read_text(encoding="utf-8-sig").splitlines()
        for number, line in enumerate(lines[start:], start):
            row = _json(line)
            name = row.get("file_name")
            yield Raw(str(name or f"line {number}"), self.path / str(name) if name else None, _captions(row))


@dataclass(frozen=True)
class TarShard:
    """A WebDataset shard: files that stand together and share their name up to the first dot are one sample; a picture,
    and `.txt` or `.json` for what is said of it."""

    path: Path

    def samples(self, start: int) -> Iterator[Raw]:
        with tarfile.open(self.path) as archive:
            files = (info for info in archive if info.isfile())
            for _, members in islice(groupby(files, lambda info: _split(info.name)[0]), start, None):
                yield self._sample(archive, list(members))
            self._check_end(archive)

    @staticmethod
    def _check_end(archive: tarfile.TarFile) -> None:
        """`tarfile` takes whatever is no header for the end of the archive; an end is a block of zeros."""
        assert archive.fileobj is not None
        archive.fileobj.seek(archive.offset)
        if archive.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise tarfile.ReadError(f"it breaks off after {archive.offset} bytes")

    @staticmethod
    def _sample(archive: tarfile.TarFile, members: list[tarfile.TarInfo]) -> Raw:
        fields = {_split(info.name)[1].lower(): info for info in members}
        picture = next((ending for ending in fields if f".{ending}".endswith(PICTURES)), None)

        def read(ending: str) -> bytes:
            file = archive.extractfile(fields[ending])
            assert file is not None  # it is a plain file
            return file.read()

        row = _json(read("json")) if "json" in fields else {}
        if "txt" in fields:
            row = {"text": read("txt").decode("utf-8", "replace").splitlines()}
        return Raw(_split(members[0].name)[0], read(picture) if picture else None, _captions(row))


@dataclass(frozen=True)
class ParquetFile:
    """A parquet file with a column `image` (bytes, or a record with `bytes`) and captions (`text`).

    `samples` raises ValueError where it has no such columns, or something else in them.
    """

    path: Path

    def samples(self, start: int) -> Iterator[Raw]:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile

        try:
            file = ParquetFile(self.path)
            columns = file.schema_arrow.names
            if "image" not in columns or not set(CAPTIONS) & set(columns):
                raise ValueError(
                    f"{self.path} has the columns {', '.join(columns)}; needed are image (bytes) and one of "
                    f"{', '.join(CAPTIONS)}"
                )
            rows = (row for batch in file.iter_batches(64) for row in batch.to_pylist())
            for number, row in enumerate(islice(rows, start, None), start):
                picture = row.get("image")
                data = picture.get("bytes") if isinstance(picture, Mapping) else picture
                if not isinstance(data, bytes | None):
                    held = type(data).__name__
                    raise ValueError(
                        f"{self.path}: its column image holds {held}; needed are the bytes of picture files"
                    )
                yield Raw(f"{self.path.name}#{number}", data, _captions(row))
        except ArrowException as error:
            raise EOFError(str(error)) from error


def pictures_in(folder: Path) -> list[Path]:
    """All pictures in a folder and those below it, by name."""
    return [path for path in sorted(folder.rglob("*")) if path.suffix.lower() in PICTURES and path.is_file()]


def files_of(shard: Shard) -> list[Path]:
    """The files that a shard is read from."""
    if shard.path.is_file():
        return [shard.path]
    endings = (*PICTURES, ".txt", Path(METADATA).suffix)
    return [path for path in shard.path.rglob("*") if path.suffix.lower() in endings and path.is_file()]


def shards_in(path: Path) -> list[Shard]:
    """The shards of a folder, a file or a pattern; none if there is nothing of the kinds known.

    Raises:
        ValueError: they are parquet files, and pyarrow is not installed.
    """
    if path.is_dir():
        found = sorted(path.iterdir())
    else:
        found = [path] if path.is_file() else sorted(path.parent.glob(path.name)) if path.name else []
    for ending, kind in FILES.items():
        if files := [file for file in found if file.name.lower().endswith(ending)]:
            return [kind(file) for file in files]
    if (path / METADATA).is_file():
        return [Metadata(path)]
    return [TextFiles(path)] if path.is_dir() and pictures_in(path) else []


def _parquet(path: Path) -> Shard:
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise ValueError(f"{path} is a parquet file; reading it needs pyarrow: pip install pyarrow") from error
    return ParquetFile(path)


FILES: dict[str, Callable[[Path], Shard]] = {".tar": TarShard, ".tar.gz": TarShard, ".parquet": _parquet}


def _split(name: str) -> tuple[str, str]:
    """A file's name up to the first dot (with its folders), and the rest."""
    folder, slash, last = name.rpartition("/")
    stem, _, ending = last.partition(".")
    return f"{folder}{slash}{stem}", ending


def _captions(row: Mapping[str, Any]) -> list[str]:
    found: Any = next((row[name] for name in CAPTIONS if row.get(name)), [])
    texts = [found] if isinstance(found, str) else [text for text in found if isinstance(text, str)]
    return [text.strip() for text in texts if text.strip()]


def _json(line: str | bytes) -> dict[str, Any]:
    """A description; nothing where it cannot be read, so that the sample counts as bad."""
    try:
        row = json.loads(line)
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}
