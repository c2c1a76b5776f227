"""Made-up metadata in the columns and types of LAION-2B-en, with some values missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

WORDS = ["red", "green", "large", "small", "apple", "table", "house", "photo", "of", "the", "vintage", "car", "dog"]


def rows(count: int, seed: int = 0) -> pl.DataFrame:
    """So many rows; about one in six passes the paper's filters."""
    draw = np.random.default_rng(seed)
    number = draw.integers(0, 2**40, count)
    columns = {
        "URL": [f"https://images{n % 7}.example.org/shop/{n}.jpg?v=1" for n in number.tolist()],
        "TEXT": [" ".join(words) for words in draw.choice(WORDS, (count, 6)).tolist()],
        "WIDTH": pl.Series(draw.integers(100, 2000, count).astype(np.int32)),
        "HEIGHT": pl.Series(draw.integers(100, 2000, count).astype(np.int32)),
        "similarity": draw.normal(0.32, 0.03, count),
        "LANGUAGE": "en",
        "hash": draw.integers(-(2**62), 2**62, count),
        "pwatermark": draw.beta(0.6, 1.5, count).astype(np.float32),
        "punsafe": draw.beta(0.3, 3, count).astype(np.float32),
    }
    table = pl.DataFrame(columns)
    lost = {name: draw.random(count) < 0.01 for name in ("WIDTH", "HEIGHT", "similarity", "pwatermark", "punsafe")}
    return table.with_columns(
        pl.when(pl.Series(gone)).then(None).otherwise(pl.col(name)).alias(name) for name, gone in lost.items()
    )


def write(folder: Path, files: int, count: int, url: str | None = None) -> Path:
    """A folder of parquet files of `count` rows each, all with the same URL if it is given."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        table = rows(count, number)
        table = table if url is None else table.with_columns(URL=pl.lit(url))
        table.write_parquet(folder / f"part-{number:05d}.parquet")
    return folder
