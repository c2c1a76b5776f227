"""The manifest: what a built set holds, of what, and the checksums to prove it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from versatile_diffusion.data.disk import write_whole

SCHEMA = 1
FILE_NAME = "manifest.json"
COMMAND = "versatile data emoji --out {folder}"


def sha256_of(path: Path) -> str:
    """The checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class Manifest:
    """The contents of `manifest.json`.

    `recipe` is what was asked for, `files` maps a file name to its sha256, `shards` a split to its files, `counts` a
    split to pictures per style. A row of `concepts` stands at the concept's index; `no_sibling` lists the
    (style, concept) pairs of pair-test of which no drawing with the same outlines is in training.
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

    @property
    def total(self) -> int:
        """How many pictures there are."""
        return sum(sum(row.values()) for row in self.counts.values())

    @property
    def hash(self) -> str:
        """A short hash that tells sets apart by what they hold; the tools that built them do not count."""
        shards = {name: self.files[name] for names in self.shards.values() for name in names}
        held = [shards, self.styles, self.concepts, self.no_sibling]
        return hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()[:16]

    def write(self, folder: Path) -> None:
        """Writes `manifest.json`, whole or not at all."""
        text = json.dumps(asdict(self), ensure_ascii=False, indent=1, sort_keys=True) + "\n"
        write_whole(folder / FILE_NAME, lambda part: part.write_text(text, encoding="utf-8"))

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """The manifest of a built set."""
        path, command = folder / FILE_NAME, COMMAND.format(folder=folder)
        if not path.is_file():
            raise ValueError(f"no emoji set in {folder} ({FILE_NAME} is missing); build it with: {command}")
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError:
            raise ValueError(f"{path} is no JSON; delete it and build again with: {command}") from None
        known = {field.name for field in fields(cls)}
        if not isinstance(values, dict) or values.get("schema") != SCHEMA or set(values) != known:
            found = values.get("schema") if isinstance(values, dict) else None
            raise ValueError(f"{path} has schema {found!r}, allowed is {SCHEMA}; build the set again with: {command}")
        return cls(**values)

    def damaged(self, folder: Path) -> list[str]:
        """The files that are missing or do not have their checksum."""
        return [
            name
            for name, digest in self.files.items()
            if not (folder / name).is_file() or sha256_of(folder / name) != digest
        ]
