"""Reproducible WebDataset shards: the same samples give the same bytes."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from versatile_diffusion.printable import shown

SHARD_SAMPLES = 4000


@dataclass(frozen=True)
class EmojiSample:
    """An image with its labels. `concept_index` is the row in the manifest's concept table."""

    key: str
    webp: bytes
    captions: list[str]
    label: str
    concept: str
    concept_index: int
    style: str
    group: str
    subgroup: str
    colours: list[str]
    keywords: list[str]
    licence: str
    split: str


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)  # owner 0 without a name and time 0 by default
    info.size, info.mode = len(data), 0o644
    archive.addfile(info, io.BytesIO(data))


def _describe(sample: EmojiSample) -> bytes:
    row = {name: value for name, value in asdict(sample).items() if name not in ("key", "webp")}
    return json.dumps(row, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode("utf-8")


def write_shards(samples: Sequence[EmojiSample], split: str, folder: Path) -> list[str]:
    """Write the samples in key order as `<split>-00000.tar` etc.; return the file names."""
    ordered = sorted(samples, key=lambda sample: sample.key)
    names = []
    for number, start in enumerate(range(0, len(ordered), SHARD_SAMPLES)):
        names.append(f"{split}-{number:05d}.tar")
        with tarfile.open(folder / names[-1], "w", format=tarfile.USTAR_FORMAT) as archive:
            for sample in ordered[start : start + SHARD_SAMPLES]:
                _add(archive, f"{sample.key}.json", _describe(sample))
                _add(archive, f"{sample.key}.webp", sample.webp)
    return names


def read_shard(path: Path) -> Iterator[EmojiSample]:
    """Yield the samples of a shard in order."""
    with tarfile.open(path, "r:") as archive:
        row: dict[str, Any] = {}
        for info in archive:
            file = archive.extractfile(info)
            key, _, kind = info.name.partition(".")
            if file is None or kind not in ("json", "webp"):
                raise ValueError(f"{path.name} contains {shown(info.name)}; only <key>.json and <key>.webp are allowed")
            if kind == "json":
                row = json.loads(file.read())
            else:
                yield EmojiSample(key=key, webp=file.read(), **row)
