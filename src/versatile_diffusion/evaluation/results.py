"""Results on disk, and what may be compared with what."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from versatile_diffusion.evaluation.intervals import Measured
from versatile_diffusion.evaluation.protocol import Protocol

Table = Mapping[str, Mapping[str, Measured]]
"""By what was measured (a task, the given values, a codec), then by metric."""


@dataclass(frozen=True)
class Result:
    """What a model reached under a protocol.

    Args:
        model: its name, hash, guidance scales, and where it is known how many training samples it saw.
        judge: per split, accuracies of the judge on all real pictures, in per cent.
        tables: by split (and group of its items).
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
        """Plain JSON values."""
        return asdict(self) | {"protocol": self.protocol.plain()}

    @classmethod
    def load(cls, file: Path) -> Result:
        """What `save` wrote.

        Raises:
            ValueError: the file holds no result.
        """
        try:
            plain = json.loads(Path(file).read_text(encoding="utf-8"))
            tables = {
                split: {way: {name: Measured(**m) for name, m in row.items()} for way, row in table.items()}
                for split, table in plain["tables"].items()
            }
            return cls(**plain | {"protocol": Protocol.of(plain["protocol"]), "tables": tables})
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ValueError(f"{file} holds no result of an evaluation ({error!r})") from error


def check_comparable(results: Sequence[Result], along: str | None = None) -> None:
    """Whether numbers of these results may stand beside each other.

    Args:
        along: the field of the protocol that is varied on purpose.

    Raises:
        ValueError: their protocols differ in something else.
    """
    for other in results[1:]:
        if found := results[0].protocol.differences(other.protocol, () if along is None else (along,)):
            raise ValueError(
                f"results of {results[0].model['name']} and {other.model['name']} were measured under two protocols "
                f"and cannot be compared ({'; '.join(found)}): measure one of them again"
            )


def metrics(results: Sequence[Result]) -> list[str]:
    """The names of all that was measured, in the order in which it was."""
    rows = (row for result in results for table in result.tables.values() for row in table.values())
    return list(dict.fromkeys(name for row in rows for name in row))


def curves(results: Sequence[Result], along: str, metric: str) -> dict[str, list[tuple[float, Measured]]]:
    """Per split and way, the metric against a field of the protocol or a number that the model has (`samples`).

    Raises:
        ValueError: the results differ in something else, or one has no such number.
    """
    known = all(along in result.protocol.plain() for result in results)
    check_comparable(results, along if known else None)
    found: dict[str, list[tuple[float, Measured]]] = {}
    for result in results:
        place = (dict(result.model) | result.protocol.plain()).get(along)
        if not isinstance(place, int | float):
            raise ValueError(f"the result of {result.model['name']} says nothing of {along!r} to plot against")
        for split, table in result.tables.items():
            for way, row in table.items():
                if metric in row:
                    found.setdefault(f"{way}, {split}", []).append((place, row[metric]))
    return {name: sorted(points, key=lambda point: point[0]) for name, points in found.items()}
