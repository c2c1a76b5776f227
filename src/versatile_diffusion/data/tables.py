"""Tables of images with captions, JSON lines, CSV or parquet: their rows, and which columns name an image."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from versatile_diffusion.data.captions import FIELDS, MOST_BYTES, UnusableError, caption_fields, parse
from versatile_diffusion.plain_text.encodings import encoding_by_zeros

NO_PICTURE = "without an image"
Row = dict[str, Any] | UnusableError
DELIMITERS = ",;\t"
FILE_NAME = "file_name"
FILE_NAMES = (
    *(FILE_NAME, "filename", "file", "image", "image_path", "image_file", "image_filename", "image_name", "img"),
    *("img_path", "path", "filepath", "file_path", "picture"),
)
"""Fields of a table that name an image, case-insensitive; also fields that end in `_file_name`."""
SEVERAL = "file_names"
FEW_ROWS = 100
"""Number of rows whose fields are examined in tables without a header."""
NEEDED = f"one of {', '.join(FILE_NAMES)} and one of {', '.join(FIELDS)}"
MOST_COLUMN = 4 << 30
"""Maximum uncompressed size of a column chunk in a parquet file, in bytes."""
MOST_RATIO, FREE_RATIO = 200, 64 << 20
"""Maximum compression ratio of a column chunk, and the uncompressed size in bytes below which any ratio is accepted."""


class UnsuitableError(ValueError):
    """A file of a supported format without the required columns."""


def name_fields(names: Iterable[Any]) -> list[str]:
    """The fields or columns that hold image file names, best match first."""
    lower = {name: name.strip().lower() for name in names if isinstance(name, str)}
    ending = sorted((small for small in lower.values() if small.endswith(f"_{FILE_NAME}")), key=len)
    order = [FILE_NAME, *ending, *FILE_NAMES, *(small for small in lower.values() if small.endswith(SEVERAL))]
    return sorted((name for name, small in lower.items() if small in order), key=lambda name: order.index(lower[name]))


def name_in(row: Row) -> Any:
    """The name of a row's image; None if there is none, or a list if it names several."""
    if isinstance(row, UnusableError):
        return None
    if isinstance(several := next((row[name] for name in row if str(name).lower().endswith(SEVERAL)), None), list):
        return several[0] if len(several) == 1 else several
    named = (row[name] for name in name_fields(row))
    named = (one.get("path") if isinstance(one, Mapping) else one for one in named)  # as hubs store images
    return next((one for one in named if one not in (None, "")), None)


def text_lines(opened: BinaryIO, named: str | None = None) -> Iterator[str]:
    """Yield the lines of a text file, split at `\\n` only. Lines that are too long are truncated. Invalid UTF-8 bytes
    are kept as lone surrogates, which `captions.clean` decodes; in other encodings they become replacement characters,
    which captions must not contain.
    """
    encoding = encoding_by_zeros(opened.read(MOST_BYTES)) or named or "utf-8"
    opened.seek(0)
    errors = "surrogateescape" if encoding.startswith("utf-8") else "replace"
    lines = io.TextIOWrapper(opened, encoding, errors, newline="\n")
    try:
        whole = True
        while line := lines.readline(MOST_BYTES):
            if whole:
                yield line
            whole = line.endswith("\n")
    finally:
        lines.detach()  # otherwise it would close the file


def json_rows(opened: BinaryIO, encoding: str | None = None) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(text_lines(opened, encoding), 1):
        if not line.strip(" \t\r\n\0"):
            continue
        try:
            yield number, parse(line)
        except UnusableError as error:
            yield number, error


def csv_rows(opened: BinaryIO, encoding: str | None = None) -> Iterator[tuple[int, Row]]:
    first = next(text_lines(opened, encoding), "").strip()
    opened.seek(0)
    found = (d for d in DELIMITERS if name_fields(field.strip('" ') for field in first.split(d)))
    csv.field_size_limit(MOST_BYTES)
    reader = csv.reader(text_lines(opened, encoding), delimiter=next(found, ","))
    fields = [field.strip() for field in next(reader, [])]
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield reader.line_num, UnusableError(NO_PICTURE, str(error))
            continue
        if row:
            yield reader.line_num, dict(zip(fields, row, strict=False))


def parquet_rows(path: Path, images: tuple[str, ...] = ()) -> Iterator[dict[str, Any]]:
    """Yield the rows of a parquet file, with its image and caption columns only.

    Args:
        path: of the file.
        images: image columns, case-insensitive, of which the file must have one; default: columns of image file names.

    Raises:
        UnsuitableError: no such column, or no caption column.
        EOFError: the file is damaged, or declares an implausible uncompressed size.
    """
    from pyarrow import ArrowException
    from pyarrow.parquet import ParquetFile as Opened

    try:
        file = Opened(path)
        columns = file.schema_arrow.names
        of_images = [name for name in columns if name.lower() in images] if images else name_fields(columns)
        of_captions = [name for names in caption_fields(columns) for name in names]
        if not of_images or not of_captions:
            needed = f"one of {', '.join(images or FILE_NAMES)} and one of {', '.join(FIELDS)}"
            raise UnsuitableError(f"{path} has the columns {', '.join(columns)}; required: {needed}")
        wanted = [*of_images, *of_captions]
        _check_sizes(file, wanted)
        for batch in file.iter_batches(64, columns=wanted):
            yield from batch.to_pylist()
    except ArrowException as error:
        raise EOFError(str(error)) from error


def _check_sizes(file: Any, wanted: list[str]) -> None:
    for group in range(file.metadata.num_row_groups):
        row_group = file.metadata.row_group(group)
        for place in range(row_group.num_columns):
            column = row_group.column(place)
            size, packed = column.total_uncompressed_size, max(1, column.total_compressed_size)
            name = column.path_in_schema
            if name.split(".")[0] in wanted and (
                size > MOST_COLUMN or size > max(FREE_RATIO, MOST_RATIO * packed) or size < 0
            ):
                raise EOFError(f"column {name} declares {size:,} bytes, compressed to {packed:,}")


LINES: Mapping[str, Callable[..., Iterator[tuple[int, Row]]]] = {".jsonl": json_rows, ".csv": csv_rows}
"""Readers of text tables, `(open file, encoding)`: they yield line numbers and rows, or the error of an unreadable
row."""


def _text_rows(path: Path, encoding: str | None) -> Iterator[tuple[int, Row]]:
    with path.open("rb") as opened:
        yield from LINES[path.suffix.lower()](opened, encoding)


def _parquet_rows(path: Path, encoding: str | None) -> Iterator[tuple[int, Row]]:
    return enumerate(parquet_rows(path), 1)


ROWS = {**dict.fromkeys(LINES, _text_rows), ".parquet": _parquet_rows}
"""Readers of tables: `(path, encoding)`."""
