"""What is generated from a table, and in which pieces."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from versatile_diffusion.choices import chosen
from versatile_diffusion.files import write_json
from versatile_diffusion.flow import Flow
from versatile_diffusion.reading import read_json
from versatile_diffusion.sampling.seeds import SEED_LIMIT
from versatile_diffusion.serving.many.rows import Table, TableColumns
from versatile_diffusion.tasks import TASKS

ORDER, ENTRIES, LEDGER, MODEL = "order.json", "ledger", "ledger.json", "model.json"
FORMS: Mapping[str, str] = {"webdataset": ".tar", "parquet": ".parquet"}
"""Formats of shards, and their suffix."""
SAYS_HOW = ("device",)
"""Fields that change nothing of what is generated but its rounding."""


@dataclass(frozen=True)
class GenerationOrder:
    """What is generated.

    Args:
        table: of the inputs, a row each.
        out: the output folder.
        task: name of the task.
        seed: of the first item of the first row; each row goes on where the one before ended.
        model, dtype, device: see `VersatileDiffusionPipeline.from_pretrained`.
        options: of `generate`, for all rows that say nothing else.
        fields: of conditions, by modality, likewise.
        form: of the shards.
        rows: of a shard.
        batch: rows that are generated together.

    Raises:
        ValueError: no such task or format.
    """

    table: Table
    out: Path
    task: str
    seed: int
    model: str = "emoji"
    dtype: str = "auto"
    device: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    fields: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    form: str = "webdataset"
    rows: int = 1000
    batch: int = 8

    def __post_init__(self) -> None:
        chosen("task", self.task, TASKS)
        chosen("format", self.form, FORMS)

    @property
    def flow(self) -> Flow:
        return TASKS[self.task].flow

    @property
    def columns(self) -> TableColumns:
        """What the columns of the table are for."""
        return TableColumns.of(self.table.columns(), self.flow)

    @property
    def folder(self) -> Path:
        """That file names in the table are relative to."""
        return self.table.files[0].parent

    def seed_of(self, row: int, outputs: int) -> int:
        """Seed of the first item of a row that has none of its own."""
        return (self.seed + row * outputs) % SEED_LIMIT

    def record(self) -> dict[str, Any]:
        """Plain JSON of what decides the results."""
        plain = {name: value for name, value in asdict(self).items() if name not in ("out", *SAYS_HOW)}
        record: dict[str, Any] = json.loads(json.dumps(plain | {"table": self.table.content}, default=str))
        return record


@dataclass(frozen=True)
class RowRange:
    """Rows that become one shard.

    Args:
        number: of the shard.
        start: the first row.
        count: how many.
    """

    number: int
    start: int
    count: int

    @property
    def name(self) -> str:
        return f"{self.number:05d}"


def pieces(order: GenerationOrder) -> list[RowRange]:
    """All shards, in order.

    Raises:
        ValueError: the table has no rows.
    """
    rows = order.table.count()
    if not rows:
        raise ValueError(f"{order.table.path} has no rows")
    starts = range(0, rows, order.rows)
    return [RowRange(number, start, min(order.rows, rows - start)) for number, start in enumerate(starts)]


def read_order(out: Path) -> Mapping[str, Any]:
    """What was asked for when a folder was begun; empty if it was not."""
    file = out / ORDER
    return read_json(file) if file.is_file() else {}


def settle_order(order: GenerationOrder) -> None:
    """Notes what is asked for in the output folder.

    Raises:
        ValueError: the folder was begun with something else.
    """
    now, before = order.record(), read_order(order.out)
    if not before:
        return write_json(order.out / ORDER, now)
    names = sorted(name for name in before.keys() | now.keys() if before.get(name) != now.get(name))
    if names:
        raise ValueError(
            f"{order.out} was begun with other settings ({', '.join(names)}); give those again, or another --out"
        )
    return None
