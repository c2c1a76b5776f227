"""The filters on WebDataset shards: as on the metadata, with a ledger, and the kept samples byte for byte."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

pl = pytest.importorskip("polars")

import laion  # noqa: E402

from versatile_diffusion.data.rules import Selection  # noqa: E402
from versatile_diffusion.data.select import LEDGER, SelectPlan, select, tables  # noqa: E402
from versatile_diffusion.data.sources import open_source  # noqa: E402


def write(file: Path, samples: list[tuple[str, dict[str, Any] | str | None]]) -> Path:
    """A shard whose samples have an image, a caption and what is told of them, if anything."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as shard:
        for key, told in samples:
            members = {"jpg": f"image {key}".encode(), "txt": f"caption {key}".encode()}
            if told is not None:
                members["json"] = (told if isinstance(told, str) else json.dumps(told)).encode()
            for suffix, data in members.items():
                info = tarfile.TarInfo(f"{key}.{suffix}")
                info.size = len(data)
                shard.addfile(info, io.BytesIO(data))
    return file


def members(file: Path) -> dict[str, bytes]:
    with tarfile.open(file) as shard:
        return {info.name: shard.extractfile(info).read() for info in shard}


def told(row: dict[str, Any]) -> dict[str, Any]:
    """As `versatile data fetch` tells of a row; with a measured size."""
    sides = {"original_width": row["WIDTH"], "original_height": row["HEIGHT"]}
    return {**row, "url": row["URL"], "caption": row["TEXT"], **sides}


def test_shards_are_selected_as_their_metadata_is(tmp_path: Path) -> None:
    """Numbers of 32 bits that went through JSON are judged as those of the table, boundary values too."""
    rows = laion.rows(400, seed=3).with_columns(pl.col("similarity").cast(pl.Float32))
    edge = pl.when(pl.int_range(pl.len()) % 50 == 0).then(pl.lit(0.3, dtype=pl.Float32)).otherwise(pl.col("similarity"))
    rows = rows.with_columns(similarity=edge)
    (tmp_path / "meta").mkdir()
    rows.write_parquet(tmp_path / "meta" / "a.parquet")
    named = list(rows.iter_rows(named=True))
    for shard in range(2):
        write(
            tmp_path / "in" / f"{shard:05d}.tar",
            [(f"{n:09d}", told(named[n])) for n in range(200 * shard, 200 * shard + 200)],
        )
    by_table = select(tables([str(tmp_path / "meta")]), SelectPlan(Selection(), tmp_path / "rows"))
    by_shard = select(tables([str(tmp_path / "in")]), SelectPlan(Selection(), tmp_path / "out"))
    assert by_shard.rows == by_table.rows
    assert by_shard.histograms == by_table.histograms
    kept = pl.read_parquet(tmp_path / "rows" / "a.parquet")["URL"].to_list()
    before = members(tmp_path / "in" / "00000.tar") | members(tmp_path / "in" / "00001.tar")
    after = members(tmp_path / "out" / "00000.tar") | members(tmp_path / "out" / "00001.tar")
    assert [json.loads(data)["URL"] for name, data in after.items() if name.endswith(".json")] == kept
    assert {name: before[name] for name in after} == after
    assert len(after) == 3 * len(kept) == 3 * by_shard.kept
    ledger = json.loads((tmp_path / "out" / LEDGER).read_text())
    assert list(ledger["files"]) == ["00000.tar", "00001.tar"]
    assert len(open_source(tmp_path / "out").shards) == 2


def test_samples_that_say_nothing_follow_the_policy(tmp_path: Path) -> None:
    good = told({"URL": "u", "TEXT": "t", "WIDTH": 512, "HEIGHT": 512, "similarity": 0.35, "punsafe": 0.1})
    good |= {"pwatermark": 0.1}
    write(
        tmp_path / "in" / "a.tar",
        [("0", good), ("1", None), ("2", "{half"), ("3", "[1]"), ("4", {**good, "punsafe": None})],
    )
    rejected = select(tables([str(tmp_path / "in" / "*.tar")]), SelectPlan(Selection(), tmp_path / "reject"))
    assert (rejected.read, rejected.kept, rejected.reasons["unsafe"].missing) == (5, 1, 4)
    kept = select(tables([str(tmp_path / "in" / "a.tar")]), SelectPlan(Selection(missing="keep"), tmp_path / "keep"))
    assert kept.kept == 5


def test_sizes_are_those_that_were_measured(tmp_path: Path) -> None:
    row = {"URL": "u", "TEXT": "t", "WIDTH": 512, "HEIGHT": 512, "similarity": 0.35, "punsafe": 0.1, "pwatermark": 0.1}
    write(tmp_path / "in" / "a.tar", [("0", told(row) | {"original_width": 100}), ("1", told(row))])
    tally = select(tables([str(tmp_path / "in")]), SelectPlan(Selection(), tmp_path / "out"))
    assert tally.kept == 1
    metadata = SelectPlan(Selection(), tmp_path / "other", layout="laion-2b-en")
    assert select(tables([str(tmp_path / "in")]), metadata).kept == 2


def test_shards_that_cannot_be_selected_are_refused(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.tar", [("0", {"url": "u", "caption": "t"})])
    with pytest.raises(ValueError, match=r"a\.tar has no column for similarity"):
        select(tables([str(tmp_path / "in")]), SelectPlan(Selection(), tmp_path / "out"))
    with pytest.raises(ValueError, match="remove duplicates from the metadata"):
        select(tables([str(tmp_path / "in")]), SelectPlan(Selection(unique="url"), tmp_path / "out"))
    (tmp_path / "in" / "a.tar").write_bytes(b"no shard" * 200)
    with pytest.raises(ValueError, match="cannot be read as a shard"):
        select(tables([str(tmp_path / "in")]), SelectPlan(Selection(), tmp_path / "out"))
