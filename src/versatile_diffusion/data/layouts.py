"""Data set layouts: which files of a folder are samples, which are shards, and which are neither."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from versatile_diffusion.data.archives import ParquetFile, TarShard
from versatile_diffusion.data.coco import CocoCaptions
from versatile_diffusion.data.listing import (
    ARCHIVES,
    IMAGES,
    MISSING,
    PACKED,
    TEXTS,
    LeftOut,
    Listing,
    expand,
    list_folder,
)
from versatile_diffusion.data.shards import DESCRIPTION, METADATA, Metadata, Shard, TextFiles
from versatile_diffusion.data.tables import ROWS

PARQUET = ".parquet"


def shards_in(path: Path, encoding: str | None = None) -> tuple[list[Shard], LeftOut]:
    """The shards of a folder, a file or a pattern, and the files that are ignored; no shards if no layout matches.

    Raises:
        ValueError: parquet files without pyarrow installed, or an invalid pattern.
    """
    if path.is_dir():
        return _in_folder(list_folder(path), encoding)
    if path.is_file():
        return _in_file(path, encoding), {}
    files, missing = expand(path)
    if not files:
        return [], {}
    shards: list[Shard] = []
    left_out: dict[str, list[str]] = defaultdict(list, {MISSING: missing} if missing else {})
    for file in files:
        found, rest = _in_folder(list_folder(file), encoding) if file.is_dir() else (_in_file(file, encoding), {})
        shards += found
        for why, names in ({"other files": [file.name]} if not found else rest).items():
            left_out[why] += names
    return shards, left_out


def _in_file(path: Path, encoding: str | None) -> list[Shard]:
    if is_archive(path):
        return [TarShard(path, encoding)]
    ending = path.suffix.lower()
    if ending == PARQUET:
        _need_pyarrow(path)
    if ending == DESCRIPTION:
        return [CocoCaptions(path, encoding)]
    if ending in ROWS and (ending != PARQUET or path.name.lower() in METADATA):
        return [Metadata(path, Listing(path.parent, list_folder(path.parent).files), encoding)]
    return [ParquetFile(path, encoding)] if ending == PARQUET else []


def is_archive(file: Path) -> bool:
    """Whether a file has the extension of a supported archive."""
    return file.name.lower().endswith(ARCHIVES)


def _need_pyarrow(path: Path) -> None:
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise ValueError(f"{path} is a parquet file, which requires pyarrow: pip install pyarrow") from error


def _in_folder(listing: Listing, encoding: str | None) -> tuple[list[Shard], LeftOut]:
    """The shards of a folder. If it holds both loose samples and shards, the more numerous kind is used. Tables without
    the required columns are ignored if images have captions without them."""
    tables = [file for file in listing.files if file.name.lower() in METADATA]
    archives = [file for file in listing.files if is_archive(file)]
    parquet = [file for file in listing.of({PARQUET}) if file not in tables]
    for file in [table for table in tables if table.suffix.lower() == PARQUET] or ([] if archives else parquet):
        _need_pyarrow(file)
    metadata = [Metadata(table, listing, encoding) for table in tables]
    right = [table for table in metadata if not table.lacking]
    named = {file for table in right for file in table.names}
    images = listing.of(IMAGES)
    loose = TextFiles(listing.folder, listing, tuple(image for image in images if image not in named), encoding)
    pairs = len(loose.captioned) + len(named.intersection(images))
    if pairs:
        metadata, tables = right, [table.path for table in right]
    shards: list[Shard] = [TarShard(file, encoding) for file in archives]
    shards = shards or [ParquetFile(file, encoding) for file in parquet]
    if shards and pairs < len(shards):
        used = {shard.path for shard in shards}
    else:
        if metadata:  # other images count if they have their own captions
            loose = TextFiles(listing.folder, listing, tuple(loose.captioned), encoding)
        shards = [*metadata, *([loose] if loose.images else [])]
        used = {*tables, *named, *loose.images, *loose.used}
    return shards, {**listing.left_out, **_by_kind(listing, (file for file in listing.files if file not in used))}


def _by_kind(listing: Listing, files: Iterable[Path]) -> dict[str, list[str]]:
    """Names of ignored files by kind, without JSON descriptions, which accompany many files."""
    found: dict[str, list[str]] = defaultdict(list)
    for file in files:
        ending = file.suffix.lower()
        kinds = {"archives": PACKED, "tables": ROWS, "images": IMAGES, "texts without an image": TEXTS}
        kind = next((kind for kind, endings in kinds.items() if ending in endings), "other files")
        if ending != DESCRIPTION:
            found[kind].append(listing.name(file))
    return found
