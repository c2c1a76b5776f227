"""Download the images of selected rows into WebDataset shards, in img2dataset's layout, with a ledger of failures.

Each shard holds a fixed range of rows. The tar is written atomically, then its ledger entry: an interrupted run resumes
at the first shard without an entry.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import tarfile
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from versatile_diffusion.data.places import Spread, in_turn
from versatile_diffusion.data.rules import Selection
from versatile_diffusion.data.select import TEXT, URL, InputTable
from versatile_diffusion.files import draft_of, write_json, write_whole, writing

if TYPE_CHECKING:
    from versatile_diffusion.data.download import Downloader, DownloadLimits

LEDGER, ENTRIES = "ledger.json", "ledger"
AHEAD = 4
"""How far downloads may run ahead of the row that is written next, as a multiple of the concurrent downloads."""


@dataclass(frozen=True)
class Piece:
    """Rows of one table that become one shard.

    Args:
        number: of the shard.
        table: holds the rows.
        start: the first row.
        count: number of rows.
    """

    number: int
    table: InputTable
    start: int
    count: int

    @property
    def name(self) -> str:
        return f"{self.number:05d}"


@dataclass(frozen=True)
class Order:
    """Settings of a download run.

    Args:
        out: the output folder.
        limits: of every download.
        selection: its size limits are checked again on the downloaded images.
    """

    out: Path
    limits: DownloadLimits
    selection: Selection

    @property
    def identity(self) -> str:
        """Hash of the settings that decide which images are kept."""
        kept = (self.limits.size, self.limits.redirects, self.selection.aspect, self.selection.min_area)
        return hashlib.sha256(repr(kept).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Image:
    """A downloaded image: its original bytes, and its measured size."""

    data: bytes
    suffix: str
    width: int
    height: int
    redirects: int


@dataclass(frozen=True)
class FetchedRow:
    """Result of one row: an image, or the reason for its failure."""

    row: Mapping[str, Any]
    image: Image | None
    reason: str = ""
    more: str = ""


def pieces(tables: Sequence[InputTable], size: int) -> list[Piece]:
    """Divide the rows of tables into shards of at most `size`, in order."""
    import polars as pl

    found: list[Piece] = []
    for table in tables:
        with table.local() as file:
            schema = pl.scan_parquet(file).collect_schema()
            if lost := [name for name in (URL, TEXT) if name not in schema]:
                raise ValueError(
                    f"{table.path} has no column {lost[0]}; its columns are {', '.join(schema)} "
                    "(`versatile data select` writes both)"
                )
            rows = pl.scan_parquet(file).select(pl.len()).collect().item()
        for start in range(0, rows, size):
            found.append(Piece(len(found), table, start, min(size, rows - start)))
    return found


def fetch(
    inputs: Sequence[Piece],
    order: Order,
    spread: Spread = in_turn,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> dict[str, Any]:
    """Write the shards and the ledger: how many rows were downloaded, and how many failed, by reason.

    Args:
        inputs: from `pieces`.
        order: settings.
        spread: where shards are processed, see `data.places`.
        progress: called with the number of finished shards and the total.
    """
    order.out.mkdir(parents=True, exist_ok=True)
    left = [piece for piece in inputs if not _is_finished(order, piece)]
    for done, _ in enumerate(spread(partial(fetch_piece, order), left), len(inputs) - len(left) + 1):
        progress(done, len(inputs))
    entries = [json.loads(_entry(order, piece).read_text(encoding="utf-8")) for piece in inputs]
    failed: Counter[str] = Counter()
    for entry in entries:
        failed.update(entry["failed"])
    total = {
        "rows": sum(entry["rows"] for entry in entries),
        "fetched": sum(entry["fetched"] for entry in entries),
        "failed": dict(failed.most_common()),
        "bytes": sum(entry["bytes"] for entry in entries),
        "redirects": sum(entry["redirects"] for entry in entries),
        "tried_again": sum(entry["tried_again"] for entry in entries),
        "shards": len(entries),
    }
    assert total["rows"] == total["fetched"] + failed.total(), total
    write_json(order.out / LEDGER, {"limits": asdict(order.limits), "total": total})
    return total


def fetch_piece(order: Order, piece: Piece) -> None:
    """Write one shard, the list of its failures, and its ledger entry."""
    with writing(order.out, lambda: "the finished shards are kept"):
        entry = asyncio.run(_fetch_piece(order, piece))
        write_json(_entry(order, piece), entry)


async def _fetch_piece(order: Order, piece: Piece) -> dict[str, Any]:
    from versatile_diffusion.data.download import Downloader

    failed: Counter[str] = Counter()
    lines: list[str] = []
    size = redirects = fetched = 0
    target = order.out / f"{piece.name}.tar"
    unfinished = draft_of(target)
    async with Downloader(order.limits) as downloader, aclosing(_outcomes(order, piece, downloader)) as outcomes:
        with tarfile.open(unfinished, "w", format=tarfile.USTAR_FORMAT) as shard:
            number = -1
            async for outcome in outcomes:
                number += 1
                if outcome.image is None:
                    failed[outcome.reason] += 1
                    told = {"url": outcome.row[URL], "reason": outcome.reason, "more": outcome.more}
                    lines.append(json.dumps({"key": f"{piece.name}{number:05d}", **told}, ensure_ascii=False))
                    continue
                fetched, size = fetched + 1, size + len(outcome.image.data)
                redirects += outcome.image.redirects
                _add(shard, f"{piece.name}{number:05d}", outcome.row, outcome.image)
        tried = downloader.tries.total()
    unfinished.replace(target)
    text = "".join(f"{line}\n" for line in lines)
    write_whole(target.with_suffix(".failed.jsonl"), lambda part: part.write_text(text, encoding="utf-8"))
    return {
        "identity": order.identity,
        "table": [piece.table.path, piece.table.identity, piece.start, piece.count],
        "rows": piece.count,
        "fetched": fetched,
        "failed": dict(failed.most_common()),
        "bytes": size,
        "redirects": redirects,
        "tried_again": tried,
    }


async def _outcomes(order: Order, piece: Piece, downloader: Downloader) -> AsyncGenerator[FetchedRow, None]:
    """Yield the result of every row, in row order; a bounded number of downloads runs ahead."""
    places = asyncio.Semaphore(order.limits.at_once)

    async def one(row: Mapping[str, Any]) -> FetchedRow:
        async with places:
            return await _fetch_row(order, row, downloader)

    running: deque[asyncio.Task[FetchedRow]] = deque()
    try:
        for row in _rows(piece):
            running.append(asyncio.create_task(one(row)))
            if len(running) >= AHEAD * order.limits.at_once:
                yield await running.popleft()
        while running:
            yield await running.popleft()
    finally:
        for task in running:
            task.cancel()


async def _fetch_row(order: Order, row: Mapping[str, Any], downloader: Downloader) -> FetchedRow:
    from versatile_diffusion.data.download import FailedError

    try:
        if not isinstance(row[URL], str):
            raise FailedError("bad URL", "none")
        got = await downloader.get(row[URL])
        suffix, width, height = await asyncio.to_thread(measure, got.data)
        for rule, value in (("aspect", width / height), ("area", width * height)):
            for mine in order.selection.rules:
                if mine.name == rule and mine.interval is not None and value not in mine.interval:
                    raise FailedError(f"measured {rule}", f"{width} x {height}")
    except FailedError as failure:
        return FetchedRow(row, None, failure.reason, str(failure))
    return FetchedRow(row, Image(got.data, suffix, width, height, got.redirects))


def measure(data: bytes) -> tuple[str, int, int]:
    """The suffix, width and height of an image file.

    Raises:
        FailedError: it cannot be decoded.
    """
    from versatile_diffusion.data.download import FailedError
    from versatile_diffusion.modalities.image.files import open_image

    try:
        image = open_image(data)
    except ValueError as error:
        raise FailedError("bad image", str(error)) from error
    if (suffix := SUFFIXES.get(str(image.format))) is None:
        raise FailedError("bad image", f"{image.format} is not supported")
    return suffix, *image.size


SUFFIXES = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "GIF": "gif", "BMP": "bmp", "TIFF": "tiff"}
"""Supported formats, with their suffix in a shard."""


def _rows(piece: Piece) -> Iterator[Mapping[str, Any]]:
    import polars as pl

    with piece.table.local() as file:
        part = pl.scan_parquet(file).slice(piece.start, piece.count).collect()
    yield from part.iter_rows(named=True)


def _add(shard: tarfile.TarFile, key: str, row: Mapping[str, Any], image: Image) -> None:
    """Add the members of one sample: the original image, its caption and its metadata."""
    told = {
        **row,
        "caption": row[TEXT],
        "url": row[URL],
        "key": key,
        "status": "success",
        "width": image.width,
        "height": image.height,
        "original_width": image.width,
        "original_height": image.height,
        "sha256": hashlib.sha256(image.data).hexdigest(),
    }
    members = {
        image.suffix: image.data,
        "txt": (row[TEXT] or "").encode(),
        "json": json.dumps(told, ensure_ascii=False, default=str).encode(),
    }
    for suffix, data in members.items():
        info = tarfile.TarInfo(f"{key}.{suffix}")
        info.size = len(data)
        shard.addfile(info, io.BytesIO(data))


def _entry(order: Order, piece: Piece) -> Path:
    return order.out / ENTRIES / f"{piece.name}.json"


def _is_finished(order: Order, piece: Piece) -> bool:
    """Whether the shard exists and was written from the same rows with the same settings."""
    try:
        entry = json.loads(_entry(order, piece).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    same = [piece.table.path, piece.table.identity, piece.start, piece.count] == entry.get("table")
    return same and entry.get("identity") == order.identity and (order.out / f"{piece.name}.tar").is_file()
