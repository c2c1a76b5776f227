"""Select rows of image-text metadata (LAION-2B-en and similar) by the paper's filters, with a ledger of every row.

Each input file is processed alone: outcomes are counted, kept rows are written, then its ledger entry. An interrupted
run resumes at the first file without an entry, and memory does not grow with the data set.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from versatile_diffusion.data.ledger import BASE, Tally
from versatile_diffusion.data.places import Spread, in_turn
from versatile_diffusion.data.rules import PASSES, Columns, Rule, Selection
from versatile_diffusion.data.select_shards import SAMPLE, SHARD, copy_samples, samples_of, where_of
from versatile_diffusion.files import write_json, write_whole, writing

if TYPE_CHECKING:
    import polars as pl
    from fsspec import AbstractFileSystem

LEDGER = "ledger.json"
ENTRIES = "ledger"
PASSED = ".passed"
"""Folder for rows that pass all rules, before duplicates are removed."""

URL, TEXT = "URL", "TEXT"
"""Column names of the output, whatever they were before: those that img2dataset users usually pass."""

BINS = 100


@dataclass(frozen=True)
class InputTable:
    """One input file.

    Args:
        system: its file system.
        path: its path there.
        name: path of its output, relative to the output folder.
    """

    system: AbstractFileSystem
    path: str
    name: str

    @property
    def is_shard(self) -> bool:
        """Whether it is a WebDataset shard."""
        return self.name.lower().endswith(SHARD)

    @property
    def identity(self) -> str:
        """Version of the file, from what its file system provides (size, time, tag)."""
        return str(self.system.ukey(self.path))

    @contextmanager
    def local(self) -> Iterator[Path]:
        """The local file: itself, or a temporary copy."""
        if "file" in _protocols(self.system):
            yield Path(self.path)
            return
        with tempfile.TemporaryDirectory(prefix="versatile-select-") as folder:
            copy = Path(folder, Path(self.path).name)
            self.system.get_file(self.path, str(copy))
            yield copy


@dataclass(frozen=True)
class SelectPlan:
    """Settings of a selection.

    Args:
        selection: which rows to keep.
        out: the output folder.
        layout: of the columns; default: the best match.
        columns: columns by meaning that override the layout's.
        histograms: whether to store histograms in the ledger.
    """

    selection: Selection
    out: Path
    layout: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    histograms: bool = True

    @property
    def identity(self) -> str:
        """Hash of the settings that decide which rows are kept."""
        told = json.dumps([self.selection.to_json(), self.layout, sorted(self.columns.items())])
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    def entry(self, table: InputTable) -> Path:
        """Path of the ledger entry of a table."""
        return self.out / ENTRIES / f"{table.name}.json"

    def passed(self, table: InputTable) -> Path:
        """Where rows that pass all rules are written: the final path, unless duplicates must still be removed."""
        return self.out / PASSED / table.name if self.selection.unique else self.out / table.name


def tables(paths: Sequence[str]) -> list[InputTable]:
    """The parquet files or WebDataset shards of folders, patterns and files, local or by URL (`s3://`, `gs://`,
    `hf://`, ...). Shards of a folder are used only if it has no parquet files.

    Raises:
        ValueError: a path has none, or two files would have the same output path.
    """
    from fsspec.core import url_to_fs

    found: dict[str, InputTable] = {}
    for path in paths:
        system, root = url_to_fs(path)
        base = root
        if _magic(root):
            base, files = _before_magic(root), system.glob(root)
        elif system.isdir(root):
            below = f"{root.rstrip('/')}/**/*"
            files = system.glob(f"{below}.parquet") or system.glob(f"{below}{SHARD}")
        else:
            base, files = root.rpartition("/")[0], [root] if system.exists(root) else []
        if not files:
            raise ValueError(
                f"{path} has no parquet files or shards; use a folder, a file or a pattern such as part-*.parquet"
            )
        for file in sorted(map(str, files)):
            table = InputTable(system, file, file.removeprefix(base).lstrip("/"))
            if (old := found.get(table.name)) and old.path != table.path:
                raise ValueError(
                    f"{old.path} and {table.path} would both be written to {table.name}; select them separately"
                )
            found[table.name] = table
    return list(found.values())


def select(
    inputs: Sequence[InputTable],
    plan: SelectPlan,
    spread: Spread = in_turn,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Tally:
    """Write the kept rows of every table below `plan.out`, and the ledger.

    Args:
        inputs: from `tables`.
        plan: settings.
        spread: where tables are processed, see `data.places`.
        progress: called with the number of finished tables and the total.

    Returns:
        The totals.

    Raises:
        ValueError: the folder holds another selection, or a table lacks a column or cannot be read.
    """
    if plan.selection.unique and (shards := [table for table in inputs if table.is_shard]):
        raise ValueError(f"{shards[0].path} is a shard; remove duplicates from the metadata, before downloading")
    plan.out.mkdir(parents=True, exist_ok=True)
    settle(plan)
    left = [table for table in inputs if not _is_finished(plan, table)]
    for done, _ in enumerate(spread(partial(select_table, plan), left), len(inputs) - len(left) + 1):
        progress(done, len(inputs))
    entries = {table: _read_entry(plan.entry(table)) for table in inputs}
    if plan.selection.unique:
        from versatile_diffusion.data.duplicates import take_out

        meaning = plan.selection.unique
        paths = {plan.passed(table): plan.out / table.name for table in inputs}
        counts = take_out(paths, {plan.passed(t): entries[t]["columns"][meaning] for t in inputs}, plan.out / ".keys")
        tallies = [replace(_tally(entries[table]), duplicates=counts[plan.passed(table)]) for table in inputs]
    else:
        tallies = [_tally(entries[table]) for table in inputs]
    names = tuple(rule.name for rule in plan.selection.rules)
    total = Tally.total(names, plan.selection.missing, tallies)
    write_json(
        plan.out / LEDGER,
        {
            "identity": plan.identity,
            "selection": plan.selection.to_json(),
            "rules": {rule.name: rule.says for rule in plan.selection.rules},
            "total": total.to_json(),
            "files": {table.name: tally.to_json() for table, tally in zip(inputs, tallies, strict=True)},
        },
    )
    return total


def settle(plan: SelectPlan) -> None:
    """Store the settings in the output folder.

    Raises:
        ValueError: it holds another selection.
    """
    file = plan.out / ENTRIES / "selection.json"
    if file.exists():
        there = json.loads(file.read_text(encoding="utf-8"))
        if there["identity"] != plan.identity:
            raise ValueError(f"{plan.out} holds another selection ({there['selection']}); use another folder")
        return
    write_json(file, {"identity": plan.identity, "selection": plan.selection.to_json()})


def select_table(plan: SelectPlan, table: InputTable) -> None:
    """Write the passing rows of one table, then its ledger entry.

    Raises:
        ValueError: it lacks a column, or cannot be read.
    """
    import polars as pl

    target = plan.passed(table)
    with table.local() as file, writing(plan.out, lambda: "the finished files are kept"):
        if table.is_shard:
            return _enter(plan, table, *_select_shard(plan, table, file))
        try:
            rows = pl.scan_parquet(file)
            where = Columns.find(rows.collect_schema(), plan.selection.needs, plan.layout, plan.columns, table.path)
            passes, outcomes = counting_expression(plan.selection, where)
            passed = rows.filter(passes).rename(_output_names(where))
            target.parent.mkdir(parents=True, exist_ok=True)
            write_whole(target, lambda part: passed.sink_parquet(part))
            tally = tally_of(outcomes, plan.selection, _histograms(rows, plan.selection, where, plan.histograms))
            if tally.read != (there := rows.select(pl.len()).collect().item()):
                raise ValueError(f"{table.path} changed while it was read: {tally.read} of {there} rows were filtered")
        except pl.exceptions.PolarsError as error:
            raise ValueError(f"{table.path} cannot be read as parquet: {error}") from error
    _enter(plan, table, where, tally, pl.scan_parquet(target).select(pl.len()).collect().item())


def _select_shard(plan: SelectPlan, table: InputTable, file: Path) -> tuple[Columns, Tally, int]:
    """Copy the passing samples of a shard; return its columns, the tally and the number of samples written."""
    samples = samples_of(file)
    where = where_of(samples, plan.selection.needs, plan.layout, plan.columns, table.path)
    passes, outcomes = counting_expression(plan.selection, where)
    names = set(samples.filter(passes)[SAMPLE])
    tally = tally_of(outcomes, plan.selection, _histograms(samples.lazy(), plan.selection, where, plan.histograms))
    return where, tally, copy_samples(file, names, plan.passed(table))


def _enter(plan: SelectPlan, table: InputTable, where: Columns, tally: Tally, written: int) -> None:
    """Write the ledger entry of a table."""
    if written != tally.passed:
        raise ValueError(f"{table.path} changed while it was read: {tally.passed} rows passed, {written} written")
    names = {**where.names, **{m: n for m, n in (("url", URL), ("text", TEXT)) if m in where.names}}
    entry = {"table": table.path, "identity": table.identity, "layout": where.layout, "columns": names}
    # An entry that a power cut empties is one of a table that is not finished: it is selected again.
    write_json(plan.entry(table), {**entry, "tally": tally.to_json()}, durable=False)


def counting_expression(selection: Selection, columns: Columns) -> tuple[pl.Expr, np.ndarray]:
    """An expression that tests whether a row passes every rule, and an array with the number of rows by combination of
    outcomes (see `BASE`). It is filled while the expression is evaluated, so rows are read once."""
    import polars as pl

    names = tuple(rule.name for rule in selection.rules)
    outcomes, lock = np.zeros(BASE ** len(names), dtype=np.int64), threading.Lock()
    empty = Tally(names, selection.missing, {})
    passing = np.array([empty.lets_pass(code) for code in range(len(outcomes))])
    only = passing.nonzero()[0].tolist() == [PASSES]  # rows that pass every rule, and no others
    kind = pl.UInt8 if len(outcomes) <= 256 else pl.UInt16
    code: pl.Expr = pl.lit(0, dtype=kind)
    for place, rule in enumerate(selection.rules):
        code = code + rule.outcome(columns).cast(kind) * pl.lit(BASE**place, dtype=kind)

    def judge(codes: pl.Series) -> pl.Series:
        found = codes.to_numpy()
        counts = np.bincount(found, minlength=len(outcomes))
        with lock:
            outcomes[:] += counts
        return pl.Series(codes.name, found == PASSES if only else passing[found])

    if not names:  # a literal alone would be evaluated as a single row
        code = code + pl.lit(0, dtype=kind) * pl.col(columns.names["url"]).is_null().cast(kind)
    return code.map_batches(judge, return_dtype=pl.Boolean, is_elementwise=True), outcomes


def tally_of(outcomes: np.ndarray, selection: Selection, histograms: Mapping[str, list[int]]) -> Tally:
    """The tally of rows that `counting` counted."""
    told = {int(code): int(outcomes[code]) for code in np.flatnonzero(outcomes)}
    tally = Tally(tuple(rule.name for rule in selection.rules), selection.missing, told, histograms=dict(histograms))
    tally.check()
    return tally


def _histograms(rows: pl.LazyFrame, selection: Selection, columns: Columns, wanted: bool) -> dict[str, list[int]]:
    rules = [rule for rule in selection.rules if wanted and rule.interval is not None]
    return {rule.name: _histogram(rows, rule, columns) for rule in rules}


def _histogram(rows: pl.LazyFrame, rule: Rule, columns: Columns) -> list[int]:
    """Number of values in each of `BINS` equal bins of the rule's span."""
    import polars as pl

    low, high = rule.span
    place = ((rule.number(columns).cast(pl.Float64) - low) / (high - low) * BINS).floor().clip(0, BINS - 1)
    found = rows.select(place=place.cast(pl.Int32)).drop_nulls().group_by("place").len().collect(engine="streaming")
    counts = [0] * BINS
    for at, number in found.iter_rows():
        counts[at] = number
    return counts


def _output_names(columns: Columns) -> dict[str, str]:
    """Map the URL and caption columns to their names in the output."""
    return {columns.names["url"]: URL, columns.names["text"]: TEXT}


def _is_finished(plan: SelectPlan, table: InputTable) -> bool:
    """Whether the table has a ledger entry, is unchanged, and its output still exists."""
    try:
        entry = _read_entry(plan.entry(table))
    except (OSError, ValueError):
        return False
    return entry.get("identity") == table.identity and plan.passed(table).is_file()


def _read_entry(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def _tally(entry: Mapping[str, Any]) -> Tally:
    return Tally.from_json(entry["tally"])


def _protocols(system: AbstractFileSystem) -> tuple[str, ...]:
    return (system.protocol,) if isinstance(system.protocol, str) else tuple(system.protocol)


def _magic(path: str) -> bool:
    return any(sign in path for sign in "*?[")


def _before_magic(path: str) -> str:
    """The leading folders of a pattern without wildcards."""
    parts = path.split("/")
    return "/".join(parts[: next(k for k, part in enumerate(parts) if _magic(part))])
