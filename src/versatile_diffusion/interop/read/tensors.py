"""Lazy access to weights in files by name: headers are read first, tensors on demand."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from versatile_diffusion.interop.read.pickled import StoredTensor, format_names, plausible, read_pickled
from versatile_diffusion.interop.read.wrapped import find_state, unwrap_name
from versatile_diffusion.printable import shown
from versatile_diffusion.reading import INDEX_SUFFIX, parse_json, reading, shards_of

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
"""Suffixes of weight files, preferred ones first."""
SAFETENSORS_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
MOST_HEADER = 100_000_000
"""Maximum size of a safetensors header in bytes, as in that library."""


@dataclass(frozen=True)
class TensorEntry:
    """A tensor in a file, from its header.

    Args:
        name: in the file.
        shape: shape.
        dtype: stored dtype.
        file: the file.
        offset: byte offset in the file; None if it cannot be mapped.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    file: Path
    offset: int | None = None

    def mapped(self) -> Tensor:
        """Memory-map the tensor. Writing to it does not change the file."""
        length = math.prod(self.shape) * self.dtype.itemsize
        if not length:
            return torch.empty(self.shape, dtype=self.dtype)
        assert self.offset is not None
        numbers: np.ndarray = np.memmap(self.file, mode="c", offset=self.offset, shape=length)
        if self.offset % self.dtype.itemsize:
            numbers = np.array(numbers)  # views of other dtypes need alignment
        return torch.from_numpy(numbers).view(self.dtype).reshape(self.shape)


class Tensors(Mapping[str, Tensor]):
    """Tensors of one or several files by name, memory-mapped: data is read when used, and freed with the tensor.

    Args:
        entries: entries by name here (`TensorEntry.name` is the name in the file).
        readers: reader of each.
        notes: wrappers removed and choices made, for users.
    """

    def __init__(
        self, entries: Mapping[str, TensorEntry], readers: Mapping[str, Callable[[], Tensor]], notes: Iterable[str] = ()
    ) -> None:
        self.entries = dict(entries)
        self._readers = dict(readers)
        self.notes = tuple(dict.fromkeys(notes))

    def __getitem__(self, name: str) -> Tensor:
        return self._readers[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def __repr__(self) -> str:
        files = dict.fromkeys(entry.file.name for entry in self.entries.values())
        return f"Tensors({len(self)} of {', '.join(files) or 'no file'})"

    def read(self, name: str, dtype: torch.dtype | None = None) -> Tensor:
        """Read a tensor; floating-point tensors are converted to `dtype` (None keeps the stored one)."""
        tensor = self[name]
        return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor

    def select(self, prefix: str, strip: bool = True) -> Tensors:
        """Select entries by prefix, which is removed unless `strip` is False."""
        return self.renamed(
            lambda name: (name.removeprefix(prefix) if strip else name) if name.startswith(prefix) else None
        )

    def renamed(self, rename: Callable[[str], str | None]) -> Tensors:
        """Rename the tensors; those renamed to None are dropped.

        Raises:
            ValueError: duplicate names.
        """
        names: dict[str, str] = {}
        for old in self:
            if (new := rename(old)) is None:
                continue
            if new in names:
                raise ValueError(f"{shown(names[new])} and {shown(old)} are both {shown(new)}")
            names[new] = old
        entries = {new: self.entries[old] for new, old in names.items()}
        return Tensors(entries, {new: self._readers[old] for new, old in names.items()}, self.notes)

    def noted(self, *notes: str) -> Tensors:
        """Add notes."""
        return Tensors(self.entries, self._readers, (*self.notes, *notes))

    def unwrapped(self) -> Tensors:
        """Remove name parts added by wrappers (data parallel, torch.compile, ...).

        Raises:
            ValueError: duplicate names.
        """
        added = dict.fromkeys(part for name in self for part in unwrap_name(name)[1])
        if not added:
            return self
        plain = self.renamed(lambda name: unwrap_name(name)[0])
        return plain.noted(f"removed {' and '.join(f'{part}.' for part in added)} from the names")

    @classmethod
    def merged(cls, several: Iterable[Tensors]) -> Tensors:
        """Merge several.

        Raises:
            ValueError: duplicate names.
        """
        whole = cls({}, {})
        for tensors in several:
            if twice := whole.entries.keys() & tensors.entries.keys():
                name = min(twice)
                files = f"{whole.entries[name].file} and {tensors.entries[name].file}"
                raise ValueError(f"{files} both contain {format_names(sorted(twice))}")
            whole.entries |= tensors.entries
            whole._readers |= tensors._readers
            whole.notes = tuple(dict.fromkeys((*whole.notes, *tensors.notes)))
        return whole


def open_tensors(path: str | PathLike[str]) -> Tensors:
    """Open the tensors of a file, a sharded set, or a folder with one of these.

    Args:
        path: `.safetensors`; a state dict pickled by torch (`.pth`, `.pt`, `.bin`, `.ckpt`), possibly inside a
            trainer's checkpoint (see `find_state`); the index of a sharded set (`*.safetensors.index.json`,
            `*.bin.index.json`); or a folder.

    Raises:
        ValueError: a missing, empty, truncated or foreign file, or one that would run code; detected from headers.
    """
    file = Path(path)
    if file.is_dir():
        file = _only_file(file)
    if not file.is_file():
        raise ValueError(f"{file}: no such file or folder")
    with reading(file, f"weights{_as_text(file)}"):
        if file.name.endswith(INDEX_SUFFIX):
            return _open_shards(file)
        tensors = (_open_safetensors if file.suffix == ".safetensors" else _open_pickled)(file)
        if not tensors:
            raise ValueError(f"{file} contains no state dict{'; '.join(['', *tensors.notes])}")
    return tensors


def _only_file(folder: Path) -> Path:
    """Return the single weight file of a folder."""
    for suffix in (INDEX_SUFFIX, *SUFFIXES):
        if found := sorted(folder.glob(f"*{suffix}")):
            if len(found) == 1:
                return found[0]
            raise ValueError(
                f"{folder} contains several weight files; give one of: {format_names(f.name for f in found)}"
            )
    raise ValueError(f"{folder} contains no weights (*{', *'.join(SUFFIXES)})")


def _open_shards(index: Path) -> Tensors:
    places = shards_of(index)
    shards = {name: open_tensors(index.parent / name) for name in dict.fromkeys(places.values())}
    if lacking := [name for name, shard in places.items() if name not in shards[shard]]:
        raise ValueError(f"its files lack {format_names(lacking)}")
    return Tensors.merged(shards.values())


def _open_safetensors(file: Path) -> Tensors:
    header, start = _header(file)
    room = file.stat().st_size - start
    entries: dict[str, TensorEntry] = {}
    spans: dict[str, tuple[int, int]] = {}
    for name, facts in header.items():
        try:
            begin, end = facts["data_offsets"]
            shape, dtype = facts["shape"], SAFETENSORS_DTYPES[facts["dtype"]]
            right = type(begin) is int and type(end) is int and begin >= 0 and plausible(shape)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"its entry {shown(name)} is damaged or unsupported: {facts}") from error
        if not right or end - begin != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"its entry {shown(name)} has a size that does not match its shape: {facts}")
        entries[name], spans[name] = TensorEntry(name, tuple(shape), dtype, file, start + begin), (begin, end)
    end = max((end for _, end in spans.values()), default=0)
    if end > room:
        lost = sorted((name for name in spans if spans[name][1] > room), key=lambda name: spans[name][1])
        raise ValueError(f"it is cut short by {end - room:,} bytes; incomplete are {format_names(lost)}")
    if end < room:
        raise ValueError(f"it has {room - end:,} bytes beyond its entries")
    ordered = sorted(span for span in spans.values() if span[0] < span[1])
    if any(one[1] != other[0] for one, other in zip([(0, 0), *ordered], ordered, strict=False)):
        raise ValueError("its entries overlap, or leave gaps")
    return Tensors(entries, {name: entry.mapped for name, entry in entries.items()})


def _header(file: Path) -> tuple[dict[str, Any], int]:
    """Return the table of a safetensors file, and the offset of its data."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if size < 8 or length > min(size - 8, MOST_HEADER):
            raise ValueError(f"its {size:,} bytes do not start with a complete safetensors header")
        header = parse_json(opened.read(length), "its safetensors header")
    told = header.pop("__metadata__", {})
    if not isinstance(told, dict) or not all(isinstance(value, str) for value in told.values()):
        raise ValueError("its __metadata__ is damaged")
    return header, 8 + length


def _open_pickled(file: Path) -> Tensors:
    pickled = read_pickled(file)
    state, notes = find_state(pickled.content)
    if pickled.left_out:
        notes = (*notes, f"ignored {format_names(pickled.left_out)}, which are not tensors")
    entries, readers = {}, {}
    for name, stored in state.items():
        if name in entries:
            raise ValueError(f"two entries are named {shown(name)}")
        start = pickled.places[stored.storage.key]
        whole = TensorEntry(name, (stored.storage.nbytes // stored.dtype.itemsize,), stored.dtype, file, start)
        if stored.contiguous:
            offset = start + stored.offset * stored.dtype.itemsize
            entries[name] = TensorEntry(name, stored.shape, stored.dtype, file, offset)
            readers[name] = entries[name].mapped
        else:
            entries[name] = TensorEntry(name, stored.shape, stored.dtype, file)
            readers[name] = partial(_strided_view, whole, stored)
    return Tensors(entries, readers, notes)


def _strided_view(whole: TensorEntry, stored: StoredTensor) -> Tensor:
    """Return a tensor that is a strided view of its storage."""
    return whole.mapped().as_strided(stored.shape, stored.stride, stored.offset)


def _as_text(file: Path) -> str:
    """Describe a text file given instead of weights, e.g. a Git LFS pointer."""
    with file.open("rb") as opened:
        start = opened.read(48).decode("ascii", errors="replace").partition("\n")[0]
    is_text = not file.name.endswith(INDEX_SUFFIX) and start and start.isascii() and start.isprintable()
    return f" (a text file that starts with {shown(start)})" if is_text else ""
