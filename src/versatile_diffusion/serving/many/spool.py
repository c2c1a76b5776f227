"""Items on their way to a shard: one file for each batch that is done, and all of them put together at the end.

A sample has the members that WebDataset knows: its value, its record as JSON, and the prompt beside a value that is no
text.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from versatile_diffusion.files import write_whole

FAILED = "failed.jsonl"
"""Member of a batch's file, and the end of the name of a shard's table of failures."""
RECORD = "json"


@dataclass(frozen=True)
class Failure:
    """A row of which nothing was generated. Args: row: its number. reason: the kind. more: what was wrong."""

    row: int
    reason: str
    more: str

    def line(self) -> str:
        return json.dumps(vars(self), ensure_ascii=False) + "\n"


@dataclass(frozen=True)
class Sample:
    """An item. Args: key: of all its members. members: content by suffix."""

    key: str
    members: Mapping[str, bytes]


def write_batch(file: Path, samples: Iterable[Sample], failures: Sequence[Failure]) -> None:
    """Writes what became of a batch, whole or not at all."""

    def write(draft: Path) -> None:
        with tarfile.open(draft, "w", format=tarfile.USTAR_FORMAT) as archive:
            for sample in samples:
                for suffix, data in sample.members.items():
                    _add(archive, f"{sample.key}.{suffix}", data)
            _add(archive, FAILED, "".join(failure.line() for failure in failures).encode())

    write_whole(file, write)


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    archive.addfile(info, io.BytesIO(data))


def failures_in(folder: Path) -> list[Failure]:
    """The failures of all batches."""
    found = []
    for file in sorted(folder.glob("*.tar")):
        with tarfile.open(file, "r:") as archive:
            lines = archive.extractfile(FAILED).read().decode().splitlines()  # type: ignore[union-attr]
            found += [Failure(**json.loads(line)) for line in lines]
    return found


def rows_in(folder: Path) -> set[int]:
    """Numbers of the rows that are done."""
    keys = {sample.key for sample in samples_in(folder)}
    return {int(key.partition("-")[0]) for key in keys} | {failure.row for failure in failures_in(folder)}


def samples_in(folder: Path) -> Iterator[Sample]:
    """The samples of all batches, by key. Each is read when it is its turn."""
    places: dict[str, list[tuple[Path, tarfile.TarInfo]]] = {}
    for file in sorted(folder.glob("*.tar")):
        with tarfile.open(file, "r:") as archive:
            for member in archive:
                if member.name != FAILED:
                    places.setdefault(member.name.partition(".")[0], []).append((file, member))
    with ExitStack() as stack:
        files: dict[Path, IO[bytes]] = {}
        for key in sorted(places):
            members = {}
            for file, member in places[key]:
                stream = files.get(file) or files.setdefault(file, stack.enter_context(file.open("rb")))
                stream.seek(member.offset_data)
                members[member.name.partition(".")[2]] = stream.read(member.size)
            yield Sample(key, members)


def write_tar(file: Path, samples: Iterable[Sample]) -> int:
    """Writes samples as a WebDataset shard; how many there were."""
    count = 0

    def write(draft: Path) -> None:
        nonlocal count
        with tarfile.open(draft, "w", format=tarfile.USTAR_FORMAT) as archive:
            for sample in samples:
                count += 1
                for suffix, data in sample.members.items():
                    _add(archive, f"{sample.key}.{suffix}", data)

    write_whole(file, write)
    return count


def write_table(file: Path, samples: Iterable[Sample]) -> int:
    """Writes samples as a Parquet file, a row each; how many there were."""
    import polars as pl

    rows: list[dict[str, Any]] = []
    for sample in samples:
        record = json.loads(sample.members[RECORD])
        suffix, data = next(iter(sample.members.items()))
        value = record["texts"][0] if "texts" in record else data
        known = {name: record[name] for name in ("seed", "prompt", "sha256")}
        what = {"key": sample.key, "row": record["row"]["number"], "value": value, "suffix": suffix}
        rows.append({**what, **known, "record": sample.members[RECORD].decode()})
    write_whole(file, lambda draft: pl.DataFrame(rows, infer_schema_length=None).write_parquet(draft))
    return len(rows)


WRITERS = {"webdataset": write_tar, "parquet": write_table}
"""What writes a shard in each format."""
