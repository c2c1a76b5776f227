"""Images with captions in folders: beside text files, or named by a table. Each is read from any sample."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from versatile_diffusion.data.captions import (
    MOST_NAMES,
    NO_CAPTION,
    Captions,
    UnusableError,
    caption_fields,
    captions_in,
    captions_of,
    read_bounded,
)
from versatile_diffusion.data.listing import IMAGES, TEXTS, Listing, inside, printable
from versatile_diffusion.data.tables import (
    FEW_ROWS,
    FILE_NAME,
    NEEDED,
    NO_PICTURE,
    ROWS,
    SEVERAL,
    Row,
    UnsuitableError,
    name_fields,
    name_in,
)
from versatile_diffusion.flow import Flow
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.printable import shown
from versatile_diffusion.tasks import TASKS

DESCRIPTION = ".json"
METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
WRITTEN = [f".{name}" for name, task in TASKS.items() if task.flow == Flow("text", ("image",))]
"""What our own commands put between a picture's name and the ending of the texts that they make of it."""


@dataclass(frozen=True)
class Raw:
    """A sample as it lies there.

    Args:
        key: its name, printable.
        content: tells it from another one of the same name: sizes and times of the files that it is in, or a hash.
        read: gives the image's file or its bytes, and the captions. Raises `UnusableError` where one of them lacks.
        where: file and line, where the name does not say it.
    """

    key: str
    content: str
    read: Callable[[], tuple[bytes | Path, Captions]]
    where: str = ""


class Shard(Protocol):
    """Samples that are read in a fixed order."""

    @property
    def path(self) -> Path:
        """The file or the folder."""

    @property
    def content(self) -> str:
        """Changes when anything in it does."""

    def samples(self, start: int) -> Iterator[Any]:
        """From number `start` on. Raises `OSError`, `EOFError` or the like where the shard breaks off."""


def stamp(file: Path) -> str:
    """Size and time of a file, which change with what is in it."""
    try:
        there = file.stat()
    except (OSError, ValueError):  # no such file, or no name that a file can have
        return "-"
    return f"{there.st_size}.{there.st_mtime_ns}"


def digest(lines: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class TextFiles:
    """A folder of images, each with its captions in a file of the same name: one a line, or a description in JSON."""

    path: Path
    listing: Listing
    images: tuple[Path, ...]
    encoding: str | None = None

    @cached_property
    def _beside(self) -> dict[tuple[Path, str], Path]:
        """Every file that may hold captions, by its folder and its name, the ending in lower case; by the composed
        form of the name too, which macOS takes apart."""
        files: dict[tuple[Path, str], Path] = {}
        for file in self.listing.of({*TEXTS, DESCRIPTION}):
            name = file.stem + file.suffix.lower()
            files[file.parent, name] = file
            files.setdefault((file.parent, unicodedata.normalize("NFC", name)), file)
        return files

    def captions_of(self, image: Path) -> list[Path]:
        """The files that may hold an image's captions, the likeliest first."""
        endings = [f"{middle}{ending}" for middle in ("", *WRITTEN) for ending in (*TEXTS, DESCRIPTION)]
        names = [stem + ending for ending in endings for stem in (image.stem, image.name)]
        known = self._beside
        found = [known.get((image.parent, form)) for n in names for form in (n, unicodedata.normalize("NFC", n))]
        return list(dict.fromkeys(file for file in found if file is not None))

    @cached_property
    def captioned(self) -> list[Path]:
        """The images that have such a file."""
        return [image for image in self.images if self.captions_of(image)]

    @property
    def used(self) -> set[Path]:
        """The files in which captions, and values of other modalities, are looked for."""
        return {file for image in self.images for file in (*self.captions_of(image), *others_beside(image))}

    @cached_property
    def content(self) -> str:
        return digest([f"{raw.key} {raw.content}" for raw in self.samples(0)])

    def samples(self, start: int) -> Iterator[Raw]:
        for image in self.images[start:]:
            beside = self.captions_of(image)
            content = " ".join(
                [*(stamp(file) for file in (image, *beside, *others_beside(image))), *_named_so(self.encoding)]
            )
            yield Raw(self.listing.name(image), content, partial(_with_captions, image, beside, self.encoding))


def others_beside(image: Path) -> list[Path]:
    """Files of the same name that hold values of modalities besides images and texts."""
    others = (record for name, record in MODALITIES.items() if name not in ("image", "text"))
    files = (image.with_suffix(suffix) for record in others for suffix in record.suffixes)
    return [file for file in files if file.is_file()]


def _named_so(encoding: str | None) -> list[str]:
    """What the encoding that somebody named adds to the content of samples: with another one they are read anew."""
    return [encoding] if encoding else []


def _with_captions(image: Path, beside: Sequence[Path], encoding: str | None) -> tuple[Path, Captions]:
    problem = UnusableError(NO_CAPTION)
    for file in beside:
        try:
            return image, captions_in(read_bounded(file), file.suffix.lower() == DESCRIPTION, encoding)
        except UnusableError as error:
            if error.kind != NO_CAPTION:  # a blank file beside a good one, or a good one beside a bad one
                problem = UnusableError(error.kind, f"{printable(file.name)}: {error}")
    raise problem


@dataclass(frozen=True)
class Metadata:
    """A table that names images beside it and below, with their captions (Hugging Face's image folder):
    `metadata.jsonl`, `.csv` or `.parquet` with `file_name` and `text`, or as else people call them. `samples` raises
    `UnsuitableError` where it has no such columns.

    Args:
        path: of the table.
        listing: of the folder that it was found in; its own one, or one above.
        encoding: of the captions, where somebody named it.
    """

    path: Path
    listing: Listing
    encoding: str | None = None

    @cached_property
    def content(self) -> str:
        return digest([stamp(self.path), *(f"{raw.key} {raw.content}" for raw in self.samples(0))])

    @cached_property
    def names(self) -> set[Path]:
        """The images that it names."""
        found: set[Path] = set()
        with suppress(UnsuitableError, EOFError, OSError):  # said when it is read
            found.update(self._file(name) for _, row in self._rows() if isinstance(name := name_in(row), str) and name)
        return found

    @cached_property
    def lacking(self) -> str:
        """What it has in place of the columns that are needed; empty if it has these."""
        first = [row for _, row in islice(self._rows(), FEW_ROWS) if isinstance(row, Mapping)]
        columns = list(dict.fromkeys(str(name) for row in first for name in row))
        right = not columns or (caption_fields(columns) and name_fields(columns))
        return "" if right else f"{self.path} has the columns {', '.join(columns)}; needed are {NEEDED}"

    @cached_property
    def _composed(self) -> dict[str, Path]:
        """The images below, by the composed form of their names."""
        below = [file for file in self.listing.of(IMAGES) if file.is_relative_to(self.path.parent)]
        names = (file.relative_to(self.path.parent).as_posix() for file in below)
        return {unicodedata.normalize("NFC", name): file for name, file in zip(names, below, strict=True)}

    def _file(self, name: str) -> Path:
        try:
            file = inside(self.path.parent, name)
        except ValueError:
            return self.path.parent / "?"  # said when it is read
        return file if file.exists() else self._composed.get(unicodedata.normalize("NFC", name), file)

    def _rows(self) -> Iterator[tuple[int, Row]]:
        return ROWS[self.path.suffix.lower()](self.path, self.encoding)

    def samples(self, start: int) -> Iterator[Raw]:
        if self.lacking:
            raise UnsuitableError(self.lacking)
        above = self.path.parent.relative_to(self.listing.folder).as_posix()
        for number, row in islice(self._rows(), start, None):
            where = f"{self.listing.name(self.path)} line {number}"
            name = name_in(row)
            if isinstance(row, UnusableError) or not isinstance(name, str) or not name:
                yield Raw(where, "", partial(_lacking, row, name))
                continue
            file = self._file(name)
            content = digest([stamp(file), *(ascii(row.get(field)) for field in sorted(row))])
            key = printable(name if above == "." else f"{above}/{name}")
            read = partial(_named, self.path.parent, file, name, row, self.encoding)
            yield Raw(key, content, read, f"{key} ({where})")


def _lacking(row: Row, name: Any) -> tuple[Path, Captions]:
    if isinstance(row, UnusableError):
        raise UnusableError(NO_PICTURE, str(row))
    if isinstance(name, list):
        raise UnusableError(NO_PICTURE, f"{SEVERAL} has {len(name)} names; a sample is one image, named by {FILE_NAME}")
    if name in (None, ""):
        raise UnusableError(NO_PICTURE, f"there are {', '.join(map(shown, list(row)[:MOST_NAMES]))}" if row else "")
    raise UnusableError(NO_PICTURE, f"{FILE_NAME} is {shown(name)}, which is no name")


def _named(folder: Path, file: Path, name: str, row: Mapping[str, Any], encoding: str | None) -> tuple[Path, Captions]:
    try:
        inside(folder, name)
    except ValueError as error:
        raise UnusableError(NO_PICTURE, str(error)) from error
    return file, captions_of(row, encoding)
