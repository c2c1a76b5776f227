"""Manifest of a built set: content, recipe and checksums."""

from __future__ import annotations

import hashlib
import json
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from versatile_diffusion.files import write_whole
from versatile_diffusion.printable import shown

SCHEMA = 1
FILE_NAME = "manifest.json"
COMMAND = "versatile data emoji --out {folder}"


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Manifest:
    """Content of `manifest.json`.

    `recipe` is the request, `files` maps file names to sha256, `shards` maps splits to files, `counts` maps splits to
    images per style. `concepts` has one row per concept index; `no_sibling` lists the (style, concept) pairs of
    pair-test without a drawing of the same outlines in training; `left_out` is the number of omitted concepts by
    reason (empty if all are included).
    """

    schema: int
    recipe: dict[str, Any]
    tools: dict[str, str]
    files: dict[str, str]
    shards: dict[str, list[str]]
    counts: dict[str, dict[str, int]]
    packages: list[dict[str, str]]
    styles: list[dict[str, Any]]
    concepts: list[dict[str, Any]]
    no_sibling: list[list[str]]
    left_out: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """Total number of images."""
        return sum(sum(row.values()) for row in self.counts.values())

    @property
    def hash(self) -> str:
        """Short hash of the content, independent of tool versions."""
        shards = {name: self.files[name] for names in self.shards.values() for name in names}
        held = [shards, self.styles, self.concepts, self.no_sibling]
        return hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()[:16]

    def write(self, folder: Path) -> None:
        """Write `manifest.json` atomically."""
        values = {name: value for name, value in asdict(self).items() if value or name != "left_out"}
        text = json.dumps(values, ensure_ascii=False, indent=1, sort_keys=True) + "\n"
        write_whole(folder / FILE_NAME, lambda part: part.write_text(text, encoding="utf-8"))

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read the manifest of a built set."""
        path, command = folder / FILE_NAME, COMMAND.format(folder=folder)
        if not path.is_file():
            raise ValueError(f"no emoji set in {folder} ({FILE_NAME} is missing); build it with: {command}")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError:
            raise ValueError(f"{path} is not JSON; delete it and build again with: {command}") from None
        known = {field.name: field.default_factory is MISSING for field in fields(cls)}
        needed = {name for name, needs in known.items() if needs}
        if not isinstance(values, dict) or values.get("schema") != SCHEMA or not needed <= set(values) <= set(known):
            found = values.get("schema") if isinstance(values, dict) else None
            raise ValueError(
                f"{path} has schema {shown(found)}; this version reads {SCHEMA}; build the set again with: {command}"
            )
        return cls(**values)

    def damaged(self, folder: Path) -> list[str]:
        """Return files that are missing or have a wrong checksum."""
        return [
            name
            for name, digest in self.files.items()
            if not (folder / name).is_file() or sha256_of(folder / name) != digest
        ]
