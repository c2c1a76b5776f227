"""Rows of a table as inputs of a task: which column holds what, and what each row asks for."""

from __future__ import annotations

import glob
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from versatile_diffusion.choices import unknown
from versatile_diffusion.controls import CONDITION, PARTS, REQUEST, RUN, Control
from versatile_diffusion.flow import Condition, Flow
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.printable import brief, shown

if TYPE_CHECKING:
    import polars as pl

T = TypeVar("T")
SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl", ".ndjson")
TYPED = ("prompt", "caption", "TEXT")
"""Other names of the column of a modality whose values are typed."""
IN_FILES = ("{}_path", "path", "file")
"""Other names of the column of a modality whose values are files."""
ADDRESS = re.compile(r"[a-zA-Z][\w+.-]*://")
FLAGS: Mapping[str, bool] = {"true": True, "1": True, "false": False, "0": False}
CHUNK = 1 << 20


@dataclass(frozen=True)
class Table:
    """A table of inputs.

    Args:
        path: a file, or a pattern of files.

    Raises:
        ValueError: there is no such file, or it has another suffix.
    """

    path: str

    def __post_init__(self) -> None:
        if not self.files:
            raise ValueError(f"{self.path}: no such file")
        if strange := [file for file in self.files if file.suffix.lower() not in SUFFIXES]:
            raise ValueError(f"{strange[0]} is no table; it must end in {', '.join(SUFFIXES)}")

    @property
    def files(self) -> list[Path]:
        found = [self.path] if Path(self.path).is_file() else sorted(glob.glob(self.path))
        return [Path(one) for one in found]

    @property
    def content(self) -> str:
        """A hash of the bytes of all files."""
        digest = hashlib.sha256()
        for file in self.files:
            with file.open("rb") as stream:
                while part := stream.read(CHUNK):
                    digest.update(part)
        return digest.hexdigest()[:16]

    def columns(self) -> list[str]:
        """Names of the columns; ValueError if the table cannot be read."""
        return self._read(lambda frame: list(frame.collect_schema()))

    def count(self) -> int:
        """Number of rows."""
        import polars as pl

        return self._read(lambda frame: int(frame.select(pl.len()).collect().item()))

    def part(self, start: int, count: int) -> list[dict[str, Any]]:
        """Some rows, as plain Python."""
        return self._read(lambda frame: frame.slice(start, count).collect().to_dicts())

    def _read(self, use: Callable[[pl.LazyFrame], T]) -> T:
        import polars as pl

        try:
            return use(pl.concat([_scan(file) for file in self.files], how="diagonal"))
        except pl.exceptions.PolarsError as error:
            raise ValueError(f"{self.path} cannot be read as a table ({' '.join(str(error).split())[:200]})") from error


def _scan(file: Path) -> pl.LazyFrame:
    """A file of a table; in one of text every value is a text, so that a prompt of digits stays one."""
    import polars as pl

    texts: Any = {"infer_schema": False}
    scans: Mapping[str, Callable[[Path], pl.LazyFrame]] = {
        ".parquet": pl.scan_parquet,
        ".csv": partial(pl.scan_csv, **texts),
        ".tsv": partial(pl.scan_csv, separator="\t", **texts),
    }
    return scans.get(file.suffix.lower(), partial(pl.scan_ndjson, infer_schema_length=None))(file)


@dataclass(frozen=True)
class TableColumns:
    """What the columns of a table are for.

    Args:
        values: column of each context modality.
        fields: column to modality and field of its condition, such as `image.mask`.
        options: column to option.
        seed: column of seeds, if there is one.
    """

    values: Mapping[str, str]
    fields: Mapping[str, tuple[str, str]]
    options: Mapping[str, Control]
    seed: str | None

    @classmethod
    def of(cls, names: Sequence[str], flow: Flow) -> TableColumns:
        """What columns of these names are for in a flow; others are kept as they are.

        Raises:
            ValueError: a context has no column, or an option has two.
        """
        values = {modality: _column(modality, names) for modality in flow.contexts}
        left = [name for name in names if name not in values.values()]
        fields = {
            name: (modality, field)
            for name in left
            for modality, dot, field in [name.partition(".")]
            if dot and modality in flow.contexts and field in CONDITION
        }
        words = {
            word: control
            for control in REQUEST.values()
            if control.belongs(flow) and not control.hidden
            for word in (control.name, control.option, *control.aliases)
        }
        options = {name: words[name] for name in left if name in words}
        taken = [control.name for control in options.values()]
        if twice := [name for name in taken if taken.count(name) > 1]:
            raise ValueError(f"several columns are for {twice[0]}; leave one of them")
        return cls(values, fields, options, next((name for name in left if name in RUN), None))

    def used(self, name: str) -> bool:
        """Whether a column is for something."""
        return name in (*self.values.values(), *self.fields, *self.options, self.seed)


def _column(modality: str, names: Sequence[str]) -> str:
    others = TYPED if MODALITIES[modality].form == "typed" else [name.format(modality) for name in IN_FILES]
    for name in (modality, *others):
        if name in names:
            return name
    raise ValueError(
        unknown("column", modality, list(names), f"; the table needs one of {modality}, {', '.join(others)}")
        if names
        else f"the table has no columns; it needs one of {modality}, {', '.join(others)}"
    )


@dataclass(frozen=True)
class RequestRow:
    """What a row asks for.

    Args:
        number: of the row in its table.
        values: by context modality.
        fields: of each condition, by modality.
        options: of `generate`, without seeds.
        seed: of its first item, if it has one.
        more: what other columns hold.
    """

    number: int
    values: Mapping[str, Any]
    fields: Mapping[str, Mapping[str, Any]]
    options: Mapping[str, Any]
    seed: int | None
    more: Mapping[str, Any]

    @property
    def kind(self) -> str:
        """Equal for rows that can share a run."""
        return json.dumps([self.fields, self.options], sort_keys=True, default=str)


def row_of(number: int, given: Mapping[str, Any], columns: TableColumns, folder: Path) -> RequestRow:
    """A row as plain Python, read.

    Args:
        number: of the row in its table.
        given: values by column.
        columns: what they are for.
        folder: that file names are relative to.

    Raises:
        ValueError: a value is missing or cannot be what its column is for.
    """
    values = {modality: _value(modality, given[name], name, folder) for modality, name in columns.values.items()}
    fields: dict[str, dict[str, Any]] = {modality: {} for modality in values}
    for name, (modality, field) in columns.fields.items():
        if given[name] is not None:
            fields[modality][field] = _option_value(CONDITION[field], given[name], name, folder)
    options = {
        control.name: _option_value(control, given[name], name, folder)
        for name, control in columns.options.items()
        if given[name] is not None
    }
    seed = None if columns.seed is None or given[columns.seed] is None else given[columns.seed]
    more = {name: value for name, value in given.items() if not columns.used(name) and not isinstance(value, bytes)}
    return RequestRow(number, values, fields, options, seed if seed is None else _number(int, seed, "seed"), more)


def _value(modality: str, given: Any, name: str, folder: Path) -> Any:
    """A value of a modality: a text, the bytes of a file, or its name."""
    known = MODALITIES[modality]
    if isinstance(given, Mapping):  # as the `datasets` library has files in a column
        given = given.get("bytes") or given.get("path")
    if given is None:
        raise ValueError(f"column {name} is empty")
    if known.form == "typed" or isinstance(given, bytes):
        return known.check(given)
    return str(_file(given, name, folder))


def _file(given: Any, name: str, folder: Path) -> Path:
    if not isinstance(given, str):
        raise ValueError(f"column {name} is {shown(given)}; it must be the name of a file, or its bytes")
    if ADDRESS.match(given):
        raise ValueError(f"column {name} is {shown(brief(given, 60))}; addresses are not fetched, so give a file")
    return folder / given


def _option_value(control: Control, given: Any, name: str, folder: Path) -> Any:
    """The value of an option; what is written as JSON is read, and names of files are relative to the table."""
    if control.is_number:
        return _number(control.type, given, name)
    if control.type is bool and isinstance(given, str):
        if given.lower() not in FLAGS:
            raise ValueError(f"column {name} is {shown(given)}; it must be true or false")
        return FLAGS[given.lower()]
    if not isinstance(given, str):
        return given
    if control.choices == tuple(PARTS) and given in PARTS:
        return PARTS[given]
    if given[:1] in ("[", "{") and control.name not in ("negative_prompt", "negative"):
        try:
            return json.loads(given)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"column {name} is {shown(brief(given, 60))}; it looks like JSON, and is none") from error
    in_files = control.metavar in ("FILE", "PART")
    return str(_file(given, name, folder)) if in_files else given


def _number(kind: type, given: Any, name: str) -> Any:
    try:
        number = float(given) if kind is float or isinstance(given, float) else int(given)
    except (TypeError, ValueError):
        number = None
    if number is None or isinstance(given, bool) or (kind is int and number != int(number)):
        raise ValueError(f"column {name} is {shown(given)}; it must be a {'whole ' * (kind is int)}number")
    return kind(number)


def conditions_of(rows: Sequence[RequestRow], shared: Mapping[str, Mapping[str, Any]]) -> list[Condition]:
    """The conditions of rows of one kind. Args: shared: fields of all conditions, by modality."""
    return [
        Condition(
            modality, [row.values[modality] for row in rows], **{**shared.get(modality, {}), **rows[0].fields[modality]}
        )
        for modality in rows[0].values
    ]


def batches(rows: Sequence[RequestRow], most: int) -> Iterator[list[RequestRow]]:
    """Rows of one kind in groups of at most that size, in the order of the first row of each."""
    kinds: dict[str, list[RequestRow]] = {}
    for row in rows:
        kinds.setdefault(row.kind, []).append(row)
    groups = [group[k : k + most] for group in kinds.values() for k in range(0, len(group), most)]
    yield from sorted(groups, key=lambda group: group[0].number)
