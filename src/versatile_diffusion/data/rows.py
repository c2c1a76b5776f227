"""Rows of tensors in safetensors files, read one by one when drawn. Files are not memory-mapped: truncating a mapped
file kills the process, while here it raises an error."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

SUMS = "sums."
"""Prefix of the tensor with the checksums of rows."""
DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "I64": torch.int64}
MOST_HEADER = 100_000_000


class DamagedError(ValueError):
    """A truncated or damaged file; the message names it."""

    def __init__(self, file: Path, why: object):
        super().__init__(f"{file} is damaged ({why})")


@dataclass(frozen=True)
class Stored:
    """A tensor in a file.

    Args:
        file: the file.
        start: offset of its first byte.
        dtype: of its elements.
        shape: the first axis indexes rows.
        sums: CRC-32 of each row; None in files of earlier versions.
    """

    file: Path
    start: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    sums: Tensor | None = None

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, row: int) -> Tensor:
        """Read a row.

        Raises:
            DamagedError: wrong checksum, or a truncated file.
            OSError: the file no longer exists.
        """
        data = self._bytes(row, 1)
        if self.sums is not None and zlib.crc32(data) != int(self.sums[row]):
            raise DamagedError(self.file, f"wrong checksum of row {row}")
        return torch.frombuffer(data, dtype=self.dtype).reshape(self.shape[1:])

    def whole(self) -> Tensor:
        """Read all rows at once."""
        if not len(self):
            return torch.empty(self.shape, dtype=self.dtype)
        return torch.frombuffer(self._bytes(0, len(self)), dtype=self.dtype).reshape(self.shape)

    def _bytes(self, row: int, count: int) -> bytearray:
        size = math.prod(self.shape[1:]) * self.dtype.itemsize
        data = bytearray(count * size)
        with self.file.open("rb", buffering=0) as opened:
            opened.seek(self.start + row * size)
            there = 0
            while there < len(data) and (got := opened.readinto(memoryview(data)[there:])):
                there += got
        if there < len(data):
            raise DamagedError(self.file, f"truncated within row {row + there // size}")
        return data


def checksums(rows: Sequence[Tensor]) -> Tensor:
    """CRC-32 of each row, as `Stored` checks it."""
    return torch.tensor([zlib.crc32(row.contiguous().numpy().tobytes()) for row in rows], dtype=torch.int64)


def open_part(file: Path) -> dict[str, Stored]:
    """The tensors of a safetensors file, after a check of its header and size.

    Raises:
        DamagedError: missing, truncated, or not a safetensors file.
    """
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if length > MOST_HEADER:
                raise ValueError("no header")
            header: dict[str, Any] = json.loads(opened.read(length))
        start, end = 8 + length, file.stat().st_size
        tensors = {name: _locate(file, start, end, told) for name, told in header.items() if name != "__metadata__"}
    except OSError as error:
        raise DamagedError(file, error.strerror or error) from error
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise DamagedError(file, error) from error
    return {
        name: Stored(file, t.start, t.dtype, t.shape, _sums_of(name, t, tensors))
        for name, t in tensors.items()
        if not name.startswith(SUMS)
    }


def _locate(file: Path, start: int, end: int, told: Mapping[str, Any]) -> Stored:
    dtype, shape, (first, last) = DTYPES[told["dtype"]], tuple(told["shape"]), told["data_offsets"]
    if not shape or min(shape) < 0 or first < 0 or last - first != math.prod(shape) * dtype.itemsize:
        raise ValueError("inconsistent header")
    if start + last > end:
        raise ValueError(f"it has {end:,} bytes, but its header declares {start + last:,}")
    return Stored(file, start + first, dtype, shape)


def _sums_of(name: str, rows: Stored, tensors: Mapping[str, Stored]) -> Tensor | None:
    stored = tensors.get(SUMS + name)
    if stored is None:
        return None
    if len(stored) != len(rows):
        raise DamagedError(rows.file, "the number of checksums differs from that of rows")
    return stored.whole()


@dataclass(frozen=True)
class EncodedFile:
    """One file of an encoded set.

    Args:
        told: its entry in the index.
        rows: latents and tokens, by kind and modality.
        first: for each modality, the first row of each item (N + 1,).
    """

    told: Mapping[str, Any]
    rows: Mapping[str, Stored]
    first: Mapping[str, Tensor]

    @classmethod
    def open(cls, folder: Path, told: Mapping[str, Any]) -> EncodedFile:
        """Open a file after a check of its size and content.

        Raises:
            DamagedError: it does not match the index.
        """
        file = folder / told["file"]
        stored = open_part(file)
        rows = {name: tensor for name, tensor in stored.items() if not name.startswith("first.")}
        try:
            first = {name.split(".")[1]: stored[f"first.{name.split('.')[1]}"].whole() for name in rows}
        except LookupError as error:
            raise DamagedError(file, f"{error} is missing") from error
        for name, tensor in rows.items():
            starts = first[name.split(".")[1]]
            whole = len(starts) == len(told["keys"]) + 1 and starts[0] == 0 and starts[-1] == len(tensor)
            if not whole or bool((starts.diff() < 1).any()):
                raise DamagedError(file, f"{name} does not match the {len(told['keys'])} items of the index")
        return cls(told, rows, first)

    def item(self, number: int) -> dict[str, list[Tensor]]:
        """All rows of an item.

        Raises:
            DamagedError: they have changed since they were written.
        """
        begin = {modality: starts[number : number + 2].tolist() for modality, starts in self.first.items()}
        return {name: [stored[row] for row in range(*begin[name.split(".")[1]])] for name, stored in self.rows.items()}


@dataclass(frozen=True)
class Rows:
    """Latents or tokens of many items, in several files; an item has one row, or several of which one is drawn.
    All rows of a file have one shape.

    Args:
        parts: for each file, the rows (R, ...) in half precision and the first row of each item (N + 1,).
        device: of the drawn rows.
    """

    parts: Sequence[tuple[Stored, Tensor]]
    device: torch.device

    @cached_property
    def starts(self) -> Tensor:
        """Index of the first item of each part, and the number of items (P + 1,)."""
        return torch.tensor([0, *(len(first) - 1 for _, first in self.parts)]).cumsum(0)

    @cached_property
    def several(self) -> bool:
        return any(len(rows) > len(first) - 1 for rows, first in self.parts)

    @cached_property
    def alike(self) -> list[Tensor]:
        """Item indices grouped by the shape of their rows."""
        found: dict[tuple[int, ...], list[Tensor]] = {}
        for (rows, first), start in zip(self.parts, self.starts.tolist(), strict=False):
            found.setdefault(tuple(rows.shape[1:]), []).append(start + torch.arange(len(first) - 1))
        return [torch.cat(numbers) for numbers in found.values()]

    def draw(self, items: Tensor, generator: torch.Generator) -> Tensor:
        """Rows (B, ...) of items (B,), all of one shape (see `alike`), in float32.

        Raises:
            ValueError: a file is damaged or missing.
        """
        picks = torch.zeros(len(items))
        if self.several:
            picks = torch.rand(len(items), generator=generator, device=generator.device).cpu()
        numbers = items.cpu()
        which = torch.bucketize(numbers, self.starts, right=True) - 1
        chosen = []
        for part, item, pick in zip(which.tolist(), numbers.tolist(), picks.tolist(), strict=True):
            rows, first = self.parts[part]
            begin, end = first[item - int(self.starts[part]) :][:2].tolist()
            chosen.append(self._row(rows, begin + int(pick * (end - begin))))
        return torch.stack(chosen).to(self.device).float()

    @staticmethod
    def _row(rows: Stored, number: int) -> Tensor:
        try:
            return rows[number]
        except (DamagedError, OSError) as error:
            raise ValueError(
                f"{error}; delete {rows.file} and run `versatile data encode` again: only its items are encoded again"
            ) from error
