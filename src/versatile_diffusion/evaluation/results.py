"""Stored results, and their comparability."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from versatile_diffusion.evaluation.intervals import ONE, PARTS, TOO_FEW, Measured
from versatile_diffusion.evaluation.protocol import Protocol
from versatile_diffusion.printable import shown
from versatile_diffusion.reading import read_json, reading

Table = Mapping[str, Mapping[str, Measured]]
"""Metrics by row (a task, the given values, a codec), then by name."""


@dataclass(frozen=True)
class Result:
    """Result of a model under a protocol.

    Args:
        model: name, hash, guidance scales, and the number of training samples if known.
        judge: per split, accuracies of the judge on all real images in per cent.
        tables: by split (and group of items).
    """

    protocol: Protocol
    model: Mapping[str, Any]
    judge: Mapping[str, Mapping[str, float]]
    tables: Mapping[str, Table]
    seconds: float
    library: str

    def save(self, file: Path) -> None:
        file.write_text(json.dumps(self.plain(), indent=1) + "\n", encoding="utf-8")

    def plain(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self) | {"protocol": self.protocol.plain()}

    @classmethod
    def load(cls, file: Path) -> Result:
        """Load a result written by `save`.

        Raises:
            ValueError: not a result file.
        """
        with reading(file, "a result of an evaluation"):
            plain = read_json(file)
            tables = {
                split: {way: {name: Measured(**m) for name, m in row.items()} for way, row in table.items()}
                for split, table in plain["tables"].items()
            }
            return cls(**plain | {"protocol": Protocol.of(plain["protocol"]), "tables": tables})


def check_comparable(results: Sequence[Result], along: str | None = None) -> None:
    """Check that results are comparable.

    Args:
        along: swept protocol field.

    Raises:
        ValueError: protocols that differ in another field.
    """
    for other in results[1:]:
        if found := results[0].protocol.differences(other.protocol, () if along is None else (along,)):
            raise ValueError(
                f"results of {results[0].model['name']} and {other.model['name']} were measured under different "
                f"protocols and cannot be compared ({'; '.join(found)}): measure one of them again"
            )


def remarks(result: Result) -> list[str]:
    """List caveats of few items, one sentence each."""
    found = [m for table in result.tables.values() for row in table.values() for m in row.values()]
    said = []
    if any(m.remark == ONE for m in found):
        said.append("one item is too few for intervals and distances; use a larger --count")
    if any(m.remark == TOO_FEW for m in found):
        said.append(
            f"too few images for some distances: KID and CMMD need at least {PARTS}, FID more than its network has "
            "features"
        )
    return said


def metrics(results: Sequence[Result]) -> list[str]:
    """Return the names of all metrics, in order."""
    rows = (row for result in results for table in result.tables.values() for row in table.values())
    return list(dict.fromkeys(name for row in rows for name in row))


def curves(results: Sequence[Result], along: str, metric: str) -> dict[str, list[tuple[float, Measured]]]:
    """Return a metric per split and row against a protocol field or a field of the model (`samples`).

    Raises:
        ValueError: results that differ in other settings, or lack the field.
    """
    known = all(along in result.protocol.plain() for result in results)
    check_comparable(results, along if known else None)
    found: dict[str, list[tuple[float, Measured]]] = {}
    for result in results:
        place = (dict(result.model) | result.protocol.plain()).get(along)
        if not isinstance(place, int | float):
            raise ValueError(f"the result of {result.model['name']} has no {shown(along)} to plot against")
        for split, table in result.tables.items():
            for way, row in table.items():
                if metric in row and row[metric].value is not None:
                    found.setdefault(f"{way}, {split}", []).append((place, row[metric]))
    return {name: sorted(points, key=lambda point: point[0]) for name, points in found.items()}
