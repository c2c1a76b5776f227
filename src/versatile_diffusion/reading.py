"""Reading of untrusted files: returns a value, or raises one error that names the file. No imports of ours."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, TypeVar

from versatile_diffusion.printable import shown

MOST_BYTES = 1 << 26
"""Maximum size of a JSON file, which can take twenty times as much memory."""
DEEPEST = 64
"""Maximum depth of JSON, since consumers recurse."""
INDEX_SUFFIX = ".index.json"
"""Suffix of the index of sharded weights."""
_LONGEST = 200  # maximum characters of a reason
T = TypeVar("T")
_PASSED_ON = ("ModuleNotFoundError", "OutOfMemoryError")  # errors that are not about the file


@contextmanager
def reading(path: str | PathLike[str], what: str) -> Iterator[None]:
    """Convert any exception of a loader in the block to one ValueError with the path.

    Args:
        path: file or folder being read.
        what: expected content, e.g. "a tokenizer".

    Raises:
        ValueError: the block failed. A ValueError that names the path (or a file below it) is passed on unchanged.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:  # a Rust panic is not an Exception
        if type(error).__name__ in _PASSED_ON or (isinstance(error, ValueError) and str(path) in str(error)):
            raise
        raise ValueError(f"{path} cannot be read as {what}: {_damaged_json(Path(path)) or reason(error)}") from error


@contextmanager
def naming(path: str | PathLike[str]) -> Iterator[None]:
    """Prefix a ValueError of the block with the path, for requests that come from a file. Other exceptions are passed
    on.

    Raises:
        ValueError: raised by the block.
    """
    try:
        yield
    except ValueError as error:
        raise (error if str(path) in str(error) else ValueError(f"{path}: {error}")) from error


def entry(record: Any, name: str, kind: type[T] | tuple[type[T], ...], of: str = "the settings") -> T:
    """Return an entry of a record.

    Args:
        record: JSON object, possibly of the wrong type.
        name: name of the entry.
        kind: expected type.
        of: name of the record in messages.

    Raises:
        ValueError: not an object, or a missing or wrongly typed entry.
    """
    if not isinstance(record, Mapping):
        raise ValueError(f"{of} are damaged: expected an object with {name}, got {shown(record)}")
    if name not in record:
        raise ValueError(f"{of} are damaged: {name} is missing")
    if not isinstance(value := record[name], kind):
        raise ValueError(f"{of} are damaged: {name} is {shown(value)}")
    return value


def only(record: Any, names: Iterable[str], of: str = "the settings") -> dict[str, Any]:
    """Return a record as keywords; ValueError if it has other names."""
    if not isinstance(record, Mapping) or (strange := record.keys() - set(names)):
        raise ValueError(f"{of} are damaged: {shown(record if not isinstance(record, Mapping) else min(strange))}")
    return dict(record)


def reason(error: BaseException) -> str:
    """Format an exception's message as one short line."""
    said = " ".join(str(error).split())
    if isinstance(error, MemoryError):
        said = f"out of memory {said}"
    elif isinstance(error, KeyError):
        said = f"it lacks {said}"
    elif not isinstance(error, ValueError | OSError) or not said:
        said = f"{type(error).__name__}: {said}" if said else type(error).__name__
    return said if len(said) <= _LONGEST else f"{said[: _LONGEST // 2]} ... {said[-_LONGEST // 2 :]}"


def read_json(file: str | PathLike[str], most: int = MOST_BYTES) -> dict[str, Any]:
    """Read a JSON object from a file.

    Raises:
        ValueError: a missing or too large file, invalid or too deep JSON, or not an object.
    """
    path = Path(file)
    if not path.is_file():
        raise ValueError(f"{path} is missing")
    if (size := path.stat().st_size) > most:
        raise ValueError(f"{path} has {size:,} bytes; at most {most:,} are read")
    return parse_json(path.read_bytes(), path)


def parse_json(text: str | bytes, name: object) -> dict[str, Any]:
    """Parse a JSON object. `name` is its name in messages.

    Raises:
        ValueError: invalid, deeper than `DEEPEST`, or not an object.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} is damaged: {reason(error)}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{name} is damaged: it is a {type(value).__name__}, not a JSON object")
    level: list[Any] = [value]
    for _ in range(DEEPEST):
        inner = (one.values() if isinstance(one, Mapping) else one for one in level)
        level = [value for values in inner for value in values if isinstance(value, dict | list)]
        if not level:
            return value
    raise ValueError(f"{name} is damaged: its JSON is more than {DEEPEST} levels deep")


def shards_of(index: Path) -> dict[str, str]:
    """Return the file of each tensor of sharded weights, from its index.

    Raises:
        ValueError: an invalid index, or one with files outside its folder.
    """
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(name, str) for name in places.values()):
        raise ValueError(f"{index} is not a weight index: it lacks a weight_map with the file of each tensor")
    for name in dict.fromkeys(places.values()):
        if name in ("", ".", "..") or any(mark in name for mark in "/\\:\0") or name.endswith(INDEX_SUFFIX):
            raise ValueError(f"{index} refers to {shown(name)}; only weight files in its own folder are allowed")
    return places


def check_shards(folder: Path) -> None:
    """Raise ValueError if a folder has an invalid index, or one with files outside the folder."""
    for index in sorted({*folder.glob(f"*{INDEX_SUFFIX}"), *folder.glob("*.index.*.json")}):
        shards_of(index)


def has_variant(folder: Path, variant: str) -> bool:
    """Whether a network's folder has its weights in this variant, such as `"fp16"`: files as diffusers names them."""
    return any(
        True for pattern in ("*.{}.safetensors", "*.index.{}.json") for _ in folder.glob(pattern.format(variant))
    )


def _damaged_json(folder: Path) -> str:
    """Return what is wrong with the first damaged JSON file of a folder; empty if none is."""
    for file in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        try:
            read_json(file)
        except (ValueError, OSError) as error:
            return str(error)
    return ""
