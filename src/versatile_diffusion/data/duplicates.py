"""Takes out rows that share a key with an earlier one, over any number of files, in bounded memory.

Keys go into buckets by their own bits; all rows of a key are in one bucket, so each bucket is looked at alone.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from versatile_diffusion.files import write_whole

BUCKET = 4_000_000
"""Keys in a bucket, about: they and the places of their rows are in memory together."""

SEED = 20221115
"""Of the hash that stands for a key. With 64 bits, two of 300 million keys agree by chance once in 400 runs."""


def take_out(paths: Mapping[Path, Path], keys: Mapping[Path, str], work: Path) -> dict[Path, int]:
    """Writes each table without the rows whose key an earlier row has, in the order of the tables and their rows. Rows
    without a key all stay.

    Args:
        paths: for each table, where it is to be written.
        keys: for each table, the column of its key.
        work: a folder for what is needed meanwhile; it is removed.

    Returns:
        How many rows were taken out of each table.
    """
    import polars as pl

    shutil.rmtree(work, ignore_errors=True)
    rows = sum(pl.scan_parquet(path).select(pl.len()).collect().item() for path in paths)
    buckets = max(1, -(-rows // BUCKET))
    for number, path in enumerate(paths):
        _spread(path, keys[path], number, buckets, work)
    for bucket in sorted(work.glob("keys-*")):
        _find(bucket, work)
    counts = {path: _write(path, out, work / f"later-{number:06d}") for number, (path, out) in enumerate(paths.items())}
    shutil.rmtree(work, ignore_errors=True)
    return counts


def _spread(path: Path, column: str, number: int, buckets: int, work: Path) -> None:
    """Writes the keys of a table, with the places of their rows, into the buckets."""
    import polars as pl

    rows = pl.scan_parquet(path, row_index_name="row").filter(pl.col(column).is_not_null())
    key = pl.col(column).hash(seed=SEED)
    found = rows.select("row", key=key, bucket=key % buckets).collect(engine="streaming")
    for (bucket,), part in found.partition_by("bucket", as_dict=True, include_key=False).items():
        folder = work / f"keys-{bucket:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        part.write_parquet(folder / f"{number:06d}.parquet")


def _find(bucket: Path, work: Path) -> None:
    """Writes the places of rows whose key an earlier row of the bucket has."""
    import polars as pl

    tables = [
        pl.read_parquet(file).with_columns(table=pl.lit(int(file.stem), dtype=pl.UInt32))
        for file in sorted(bucket.iterdir())
    ]
    keys = pl.concat(tables).sort("table", "row")
    later = keys.filter(~pl.col("key").is_first_distinct()).select("table", "row")
    for (number,), part in later.partition_by("table", as_dict=True, include_key=False).items():
        folder = work / f"later-{number:06d}"
        folder.mkdir(exist_ok=True)
        part.write_parquet(folder / f"{bucket.name}.parquet")


def _write(path: Path, out: Path, later: Path) -> int:
    """Writes a table without the rows named below `later`; how many these are."""
    import polars as pl

    out.parent.mkdir(parents=True, exist_ok=True)
    files = sorted(later.glob("*.parquet"))
    rows = pl.scan_parquet(path, row_index_name="__row")
    if files:
        taken = pl.concat([pl.read_parquet(file) for file in files]).get_column("row")
        rows = rows.filter(~pl.col("__row").is_in(taken.implode()))
    write_whole(out, lambda part: rows.drop("__row").sink_parquet(part))
    return sum(pl.scan_parquet(file).select(pl.len()).collect().item() for file in files)
