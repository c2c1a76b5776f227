"""The same filters on WebDataset shards: the JSON member of each sample is a row, and kept samples are copied
unchanged."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from versatile_diffusion.data.rules import LAYOUTS, Columns
from versatile_diffusion.files import write_whole

if TYPE_CHECKING:
    import polars as pl

SHARD = ".tar"
MEASURED = "img2dataset"
"""Layout that `versatile data fetch` and img2dataset write; its width and height are those of the original image."""
SAMPLE = "__sample"
"""The column with the names of the samples."""
MOST_JSON = 1 << 20
"""Maximum size of a JSON member in bytes; longer ones are ignored."""


def samples_of(file: Path) -> pl.DataFrame:
    """A row for each sample of a shard: its name in `SAMPLE`, and the numbers and strings of its JSON member. Without a
    readable JSON member, the row has the name only.

    Raises:
        ValueError: the shard is damaged.
    """
    import polars as pl

    rows: dict[str, dict[str, Any]] = {}
    for info, archive in _members(file):
        name, _, ending = _parts(info.name)
        row = rows.setdefault(name, {SAMPLE: name})
        if ending.lower() == "json" and info.size <= MOST_JSON:
            opened = archive.extractfile(info)
            row.update(_parse_fields(b"" if opened is None else opened.read()))
    table = pl.DataFrame(list(rows.values()), infer_schema_length=None, strict=False)
    return _single(table) if rows else pl.DataFrame({SAMPLE: []}, schema={SAMPLE: pl.String})


def layout_of(columns: Mapping[str, Any], given: str | None) -> str | None:
    """The layout of a shard's JSON members."""
    lower = {name.lower() for name in columns}
    measured = all(LAYOUTS[MEASURED][meaning] in lower for meaning in ("url", "text"))
    return given or (MEASURED if measured else None)


def copy_samples(file: Path, names: set[str], out: Path) -> int:
    """Write a shard with these samples only; return their number."""
    written: set[str] = set()

    def write(draft: Path) -> None:
        with tarfile.open(draft, "w", format=tarfile.PAX_FORMAT) as copy:
            for info, archive in _members(file):
                if (name := _parts(info.name)[0]) in names:
                    written.add(name)
                    copy.addfile(info, archive.extractfile(info))

    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, write)
    return len(written)


def where_of(
    table: pl.DataFrame, needs: tuple[str, ...], layout: str | None, given: Mapping[str, str], name: str
) -> Columns:
    """The columns of a shard that a selection needs.

    Raises:
        ValueError: one is missing.
    """
    return Columns.find(table.schema, needs, layout_of(table.schema, layout), given, name)


def _members(file: Path) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
    try:
        with tarfile.open(file) as archive:
            for info in archive:
                if info.isfile():
                    yield info, archive
    except (tarfile.TarError, EOFError) as error:
        raise ValueError(f"{file} cannot be read as a shard: {error}") from error


def _parts(name: str) -> tuple[str, str, str]:
    """A member's path up to the first dot of its file name, the dot, and the rest."""
    folder, slash, last = name.rpartition("/")
    stem, dot, ending = last.partition(".")
    return f"{folder}{slash}{stem}", dot, ending


def _parse_fields(data: bytes) -> dict[str, Any]:
    try:
        told = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(told, dict):
        return {}
    return {name: value for name, value in told.items() if isinstance(value, int | float | str) and name != SAMPLE}


def _single(table: pl.DataFrame) -> pl.DataFrame:
    """Convert numbers that were float32 before they were written as decimals back to float32, so that thresholds
    compare as in the original table."""
    import polars as pl

    for name, kind in table.schema.items():
        if kind == pl.Float64:
            single = table[name].cast(pl.Float32)
            if (single.cast(pl.Float64).eq_missing(table[name])).all():
                table = table.with_columns(single)
    return table
