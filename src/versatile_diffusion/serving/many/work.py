"""Generates a shard: in batches of rows, each of which is done once whatever ends the process in between.

A batch that is done is a file in the folder of its shard. A process that was killed leaves those behind, and the next
one goes on with the first that is missing; when all are there they become the shard, then its entry of the ledger is
written. A row that fails is noted and the others go on; one that ends the process again and again is passed over.
"""

from __future__ import annotations

import io
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from versatile_diffusion.data.journal import POISONOUS, Journal
from versatile_diffusion.data.places import Spread, in_turn
from versatile_diffusion.files import write_json, write_whole, writing
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.pipeline.output import Output
from versatile_diffusion.pipeline.run import prepare
from versatile_diffusion.reading import read_json
from versatile_diffusion.records.png import write_value
from versatile_diffusion.serving.api.results import digest_of
from versatile_diffusion.serving.many.order import (
    ENTRIES,
    FORMS,
    LEDGER,
    MODEL,
    GenerationOrder,
    RowRange,
    settle_order,
)
from versatile_diffusion.serving.many.rows import RequestRow, batches, conditions_of, row_of
from versatile_diffusion.serving.many.spool import (
    FAILED,
    WRITERS,
    Failure,
    Sample,
    failures_in,
    rows_in,
    samples_in,
    write_batch,
)

if TYPE_CHECKING:
    from versatile_diffusion import VersatileDiffusionPipeline

JOURNAL = "at.json"
INVALID, UNDONE = "invalid rows", "rows that cannot be generated"
"""Reasons of failures, besides rows that end the process."""


@dataclass
class GenerateShard:
    """Generates a shard; the model is loaded when the first one comes.

    Args:
        order: what is generated.
        threads: of torch; rounding depends on them.
    """

    order: GenerationOrder
    threads: int = field(default_factory=torch.get_num_threads)

    @cached_property
    def pipe(self) -> VersatileDiffusionPipeline:
        """The model; ValueError if the folder was begun with other weights."""
        from versatile_diffusion import VersatileDiffusionPipeline

        order, device = self.order, self.order.device or ("cuda" if torch.cuda.is_available() else "cpu")
        pipe = VersatileDiffusionPipeline.from_pretrained(order.model, order.dtype, device=device)
        pipe.set_progress_bar_config(disable=True)
        file, now = order.out / MODEL, {"fingerprint": pipe.fingerprint()}
        if not file.is_file():
            write_json(file, now)
        elif (then := read_json(file)) != now:
            raise ValueError(
                f"{order.out} was begun with other weights of {order.model} ({then.get('fingerprint')}, now "
                f"{now['fingerprint']}); give another --out"
            )
        return pipe

    def __getstate__(self) -> dict[str, Any]:
        """Without the model, which every process loads for itself."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    def spool(self, piece: RowRange) -> Path:
        """Where the batches of a shard are until it is written."""
        return self.order.out / f"{piece.name}.part"

    def entry(self, piece: RowRange) -> Path:
        return self.order.out / ENTRIES / f"{piece.name}.json"

    def __call__(self, piece: RowRange) -> None:
        torch.set_num_threads(self.threads)
        order, spool = self.order, self.spool(piece)
        with writing(order.out, lambda: "what is generated stays"):
            spool.mkdir(parents=True, exist_ok=True)
            journal = Journal(spool / JOURNAL)
            rows, bad = self._rows(piece, journal)
            for batch in batches(rows, order.batch):
                self._settle(batch, spool, journal)
            failures = sorted([*bad, *failures_in(spool)], key=lambda failure: failure.row)
            items = WRITERS[order.form](order.out / f"{piece.name}{FORMS[order.form]}", samples_in(spool))
            lines = "".join(failure.line() for failure in failures)
            table = order.out / f"{piece.name}.{FAILED}"
            write_whole(table, lambda draft: draft.write_text(lines, encoding="utf-8"))
            failed = dict(Counter(failure.reason for failure in failures).most_common())
            write_json(self.entry(piece), {"rows": piece.count, "items": items, "failed": failed})
            shutil.rmtree(spool)

    def _rows(self, piece: RowRange, journal: Journal) -> tuple[list[RequestRow], list[Failure]]:
        """The rows of a shard that can be generated, and what is wrong with the others."""
        order, columns = self.order, self.order.columns
        good, bad = list[RequestRow](), list[Failure]()
        for number, given in enumerate(order.table.part(piece.start, piece.count), piece.start):
            if journal.poisonous(str(number)):
                bad.append(Failure(number, POISONOUS, "it ended the process again and again"))
                continue
            with journal.at([str(number)]):
                try:
                    row = row_of(number, given, columns, order.folder)
                    self._prepare([row])
                    good.append(row)
                except (ValueError, OSError) as error:
                    bad.append(Failure(number, INVALID, " ".join(str(error).split())))
        return good, bad

    def _options(self, rows: Sequence[RequestRow]) -> dict[str, Any]:
        return {**self.order.options, **rows[0].options}

    def _seeds(self, rows: Sequence[RequestRow]) -> list[int]:
        outputs = self._options(rows).get("num_outputs", 1)
        firsts = [self.order.seed_of(row.number, outputs) if row.seed is None else row.seed for row in rows]
        return [first + k for first in firsts for k in range(outputs)]

    def _prepare(self, rows: Sequence[RequestRow]) -> None:
        """ValueError unless the model can generate these rows."""
        conditions = conditions_of(rows, self.order.fields)
        request = self.pipe.request(self.order.flow.data, conditions, self._options(rows))
        prepare(self.pipe, request, self._seeds(rows), None, None)

    def _settle(self, batch: list[RequestRow], spool: Path, journal: Journal) -> None:
        """Does a batch unless it is done."""
        file, names = spool / f"{batch[0].number:09d}.tar", [str(row.number) for row in batch]
        if file.is_file():
            return
        if len(batch) > 1 and not journal.too_much(names):
            with journal.at(names):
                samples = self._samples(batch)
                if samples is not None:
                    return write_batch(file, samples, ())
        done, failures = list[Sample](), list[Failure]()
        for row in batch:
            with journal.at([str(row.number)]):
                try:
                    done += self._generated([row])
                except (ValueError, RuntimeError, MemoryError) as error:
                    failures.append(Failure(row.number, UNDONE, " ".join(str(error).split())))
        return write_batch(file, done, failures)

    def _samples(self, batch: list[RequestRow]) -> list[Sample] | None:
        """The samples of a batch; None if they cannot be generated together."""
        try:
            return list(self._generated(batch))
        except (ValueError, RuntimeError, MemoryError):
            return None

    def _generated(self, rows: Sequence[RequestRow]) -> Iterator[Sample]:
        conditions = conditions_of(rows, self.order.fields)
        options = self._options(rows)
        output = self.pipe.generate(self.order.flow.data, conditions, seed=self._seeds(rows), **options)
        each = len(output) // len(rows)
        for place, item in enumerate(output):
            yield self._sample(rows[place // each], place % each, item)

    def _sample(self, row: RequestRow, index: int, item: Output) -> Sample:
        """The members of an item."""
        known, (value,) = MODALITIES[item.data], item.values
        record = {
            **item.settings,
            "from_pretrained": self.order.model,
            "threads": self.threads,
            "sha256": digest_of(item.data, value),
            "row": {"number": row.number, **row.more},
        }
        record |= {"texts": [value]} if known.together else {}
        stream = io.BytesIO()
        write_value(item.data, value, stream, record)
        members = {known.suffix.removeprefix("."): stream.getvalue()}
        if not known.plain and item.settings["prompt"] is not None:
            members["txt"] = item.settings["prompt"].encode()
        members["json"] = json.dumps(record, ensure_ascii=False, default=str).encode()
        return Sample(f"{row.number:09d}-{index:03d}", members)


def generate_many(
    order: GenerationOrder,
    inputs: Sequence[RowRange],
    spread: Spread = in_turn,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> dict[str, Any]:
    """Generates all shards, and the ledger: how many rows were read, how many items there are, and how many rows failed
    by reason. Called again, it goes on with what is missing.

    Args:
        order: what is generated.
        inputs: of `pieces`.
        spread: where shards are worked on, see `data.places`.
        progress: called with the number of shards that are done, and that of all.

    Raises:
        ValueError: the folder was begun with something else, or there is no such model or column.
        OSError: the disk is full; what is generated stays.
    """
    order.columns  # noqa: B018 # before anything is written
    order.out.mkdir(parents=True, exist_ok=True)
    settle_order(order)
    work = GenerateShard(order)
    left = [piece for piece in inputs if not work.entry(piece).is_file()]
    for done, _ in enumerate(spread(work, left), len(inputs) - len(left) + 1):
        progress(done, len(inputs))
    for piece in inputs:  # a process that was killed just then leaves its batches behind
        shutil.rmtree(work.spool(piece), ignore_errors=True)
    entries = [read_json(work.entry(piece)) for piece in inputs]
    failed = Counter[str]()
    for entry in entries:
        failed.update(entry["failed"])
    total = {
        "rows": sum(entry["rows"] for entry in entries),
        "items": sum(entry["items"] for entry in entries),
        "failed": dict(failed.most_common()),
        "shards": len(entries),
    }
    write_json(order.out / LEDGER, {"order": order.record(), "total": total})
    return total


def done_already(order: GenerationOrder, inputs: Sequence[RowRange]) -> int:
    """Rows that an earlier call has done, which are not done again."""
    work, rows = GenerateShard(order), 0
    for piece in inputs:
        entry, spool = work.entry(piece), work.spool(piece)
        rows += read_json(entry)["rows"] if entry.is_file() else len(rows_in(spool))
    return rows
