"""Remove rows that repeat the key of an earlier row, across any number of files, in bounded memory.

Rows are partitioned into buckets by the hash of their key, so each bucket can be deduplicated alone.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from versatile_diffusion.files import write_whole

BUCKET = 4_000_000
"""Approximate number of keys per bucket; the keys of one bucket and their row numbers are in memory together."""

SEED = 20221115
"""Seed of the 64-bit hash of keys; among 300 million keys a collision occurs in one of 400 runs."""


def take_out(paths: Mapping[Path, Path], keys: Mapping[Path, str], work: Path) -> dict[Path, int]:
    """Write each table without the rows that repeat an earlier key, in the order of tables and rows. Rows without a key
    are kept.

    Args:
        paths: for each table, where to write it.
        keys: for each table, its key column.
        work: folder for temporary files; removed afterwards.

    Returns:
        Number of rows removed from each table.
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
    """Write the keys of a table and their row numbers into the buckets."""
    import polars as pl

    rows = pl.scan_parquet(path, row_index_name="row").filter(pl.col(column).is_not_null())
    key = pl.col(column).hash(seed=SEED)
    found = rows.select("row", key=key, bucket=key % buckets).collect(engine="streaming")
    for (bucket,), part in found.partition_by("bucket", as_dict=True, include_key=False).items():
        folder = work / f"keys-{bucket:06d}"
        folder.mkdir(parents=True, exist_ok=True)
        part.write_parquet(folder / f"{number:06d}.parquet")


def _find(bucket: Path, work: Path) -> None:
    """Write the row numbers of repeated keys in a bucket."""
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
    """Write a table without the rows listed in `later`; return their number."""
    import polars as pl

    out.parent.mkdir(parents=True, exist_ok=True)
    files = sorted(later.glob("*.parquet"))
    rows = pl.scan_parquet(path, row_index_name="__row")
    if files:
        taken = pl.concat([pl.read_parquet(file) for file in files]).get_column("row")
        rows = rows.filter(~pl.col("__row").is_in(taken.implode()))
    write_whole(out, lambda part: rows.drop("__row").sink_parquet(part))
    return sum(pl.scan_parquet(file).select(pl.len()).collect().item() for file in files)
