"""Weights in files, by name: what there is costs a look at the headers, and only what is asked for is read."""

from __future__ import annotations

import json
import math
import pickle
import re
import struct
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".ckpt")
"""Of files with weights, the preferred ones first."""
INDEX_SUFFIX = ".index.json"
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
_NAMED = 3  # offending entries in a message


@dataclass(frozen=True)
class Entry:
    """One tensor of a file, known from the file's header.

    Args:
        name: in the file.
        shape: its size.
        dtype: as stored.
        file: where it is.
        offset: of its first byte in the file; None where the file cannot be mapped.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    file: Path
    offset: int | None = None

    def mapped(self) -> Tensor:
        """The tensor as a mapping of its own, which goes away with it. Writing to it does not change the file."""
        length = math.prod(self.shape) * self.dtype.itemsize
        if not length:
            return torch.empty(self.shape, dtype=self.dtype)
        assert self.offset is not None
        numbers = np.memmap(self.file, mode="c", offset=self.offset, shape=length)
        return torch.from_numpy(numbers).view(self.dtype).reshape(self.shape)


class Tensors(Mapping[str, Tensor]):
    """Tensors of one or several files by name. They are mapped from the disk: asking for one reads nothing yet, its
    pages come when its numbers are used, and are given back with the tensor.

    Args:
        entries: what there is, by the name it has here (`Entry.name` is its name in the file).
        readers: for each, how to get it.
    """

    def __init__(self, entries: Mapping[str, Entry], readers: Mapping[str, Callable[[], Tensor]]) -> None:
        self.entries = dict(entries)
        self._readers = dict(readers)

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
        """One tensor; floating-point numbers become `dtype` (as stored where it is None)."""
        tensor = self[name]
        return tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor

    def select(self, prefix: str, strip: bool = True) -> Tensors:
        """Those whose names begin with `prefix`, which is taken off unless `strip` is False."""
        return self.renamed(
            lambda name: (name.removeprefix(prefix) if strip else name) if name.startswith(prefix) else None
        )

    def renamed(self, rename: Callable[[str], str | None]) -> Tensors:
        """The same tensors under other names; those that get None are left out.

        Raises:
            ValueError: two get the same name.
        """
        names: dict[str, str] = {}
        for old in self:
            if (new := rename(old)) is None:
                continue
            if new in names:
                raise ValueError(f"{names[new]!r} and {old!r} are both {new!r}")
            names[new] = old
        return Tensors(
            {new: self.entries[old] for new, old in names.items()}, {n: self._readers[o] for n, o in names.items()}
        )

    @classmethod
    def merged(cls, several: Iterable[Tensors]) -> Tensors:
        """All of several.

        Raises:
            ValueError: two of them have the same name.
        """
        whole = cls({}, {})
        for tensors in several:
            if twice := whole.entries.keys() & tensors.entries.keys():
                name = min(twice)
                files = f"{whole.entries[name].file} and {tensors.entries[name].file}"
                raise ValueError(f"{files} both hold {_listed(sorted(twice))}")
            whole.entries |= tensors.entries
            whole._readers |= tensors._readers
        return whole


def open_tensors(path: str | PathLike[str]) -> Tensors:
    """The tensors of a file, of a sharded set, or of the folder that holds one of these.

    Args:
        path: `.safetensors`; a state dict pickled by torch (`.pth`, `.pt`, `.bin`, `.ckpt`), perhaps under the key
            `state_dict`; the index of a sharded set (`*.safetensors.index.json`, `*.bin.index.json`); or a folder.

    Raises:
        ValueError: there is no such file; it is empty, cut short, or no weights; or it holds Python objects beside
            tensors, which are never loaded. It is found from the headers, before the numbers are read.
    """
    file = Path(path)
    if file.is_dir():
        file = _only_file(file)
    if not file.is_file():
        raise ValueError(f"{file}: no such file or folder")
    if file.name.endswith(INDEX_SUFFIX):
        return _open_shards(file)
    tensors = (_open_safetensors if file.suffix == ".safetensors" else _open_pickled)(file)
    if not tensors:
        raise ValueError(f"{file} holds no state dict")
    return tensors


def _only_file(folder: Path) -> Path:
    """The one set of weights in a folder."""
    for suffix in (INDEX_SUFFIX, *SUFFIXES):
        if found := sorted(folder.glob(f"*{suffix}")):
            if len(found) == 1:
                return found[0]
            raise ValueError(f"{folder} holds several files of weights; give one of: {_listed(f.name for f in found)}")
    raise ValueError(f"{folder} holds no weights (*{', *'.join(SUFFIXES)})")


def _open_shards(index: Path) -> Tensors:
    try:
        places: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        shards = {name: open_tensors(index.parent / Path(name).name) for name in dict.fromkeys(places.values())}
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise _unreadable(index, f"it is no index of weights ({error})") from error
    if lacking := [name for name, shard in places.items() if name not in shards[shard]]:
        raise _unreadable(index, f"its files lack {_listed(lacking)}")
    return Tensors.merged(shards.values())


def _open_safetensors(file: Path) -> Tensors:
    header, start = _header(file)
    room = file.stat().st_size - start
    entries, spans = {}, {}
    for name, facts in header.items():
        try:
            begin, spans[name] = facts["data_offsets"]
            entries[name] = Entry(name, tuple(facts["shape"]), SAFETENSORS_DTYPES[facts["dtype"]], file, start + begin)
            whole = spans[name] - begin == math.prod(entries[name].shape) * entries[name].dtype.itemsize
        except (KeyError, TypeError, ValueError) as error:
            raise _unreadable(file, f"its entry {name!r} is damaged, or of a kind unknown here: {facts}") from error
        if not whole or begin < 0:
            raise _unreadable(file, f"its entry {name!r} has another size than its shape says: {facts}")
    end = max(spans.values(), default=0)
    if end > room:
        lost = sorted((name for name in spans if spans[name] > room), key=lambda name: spans[name])
        raise _unreadable(file, f"it is cut short by {end - room:,} bytes; incomplete are {_listed(lost)}")
    if end < room:
        raise _unreadable(file, f"it has {room - end:,} bytes more than its entries")
    return Tensors(entries, {name: entry.mapped for name, entry in entries.items()})


def _header(file: Path) -> tuple[dict[str, Any], int]:
    """Of a safetensors file: its table, and where the numbers begin."""
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if size < 8 or length > size - 8:
            raise _unreadable(file, f"its {size:,} bytes do not begin with a whole safetensors header")
        try:
            header = json.loads(opened.read(length))
            header.pop("__metadata__", None)
        except (ValueError, AttributeError) as error:
            raise _unreadable(file, f"its safetensors header is damaged ({error})") from error
    return header, 8 + length


def _open_pickled(file: Path) -> Tensors:
    with file.open("rb") as opened:
        is_zip = opened.read(4) == b"PK\x03\x04"
    if is_zip and not zipfile.is_zipfile(file):
        raise _unreadable(file, f"it is cut short {_lost(file)}")
    try:
        lacking = 0 if is_zip else _old_form_lacks(file)
        loaded = None if lacking else torch.load(file, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        raise _unreadable(file, _refused(file, error)) from error
    except EOFError as error:
        raise _unreadable(file, f"it ends too soon, after {file.stat().st_size:,} bytes") from error
    except (RuntimeError, OSError, ValueError, LookupError) as error:
        raise _unreadable(file, f"it is damaged ({error})") from error
    if lacking:
        raise _unreadable(file, f"it is cut short by more than {lacking:,} bytes")
    offsets = _offsets(file, loaded) if is_zip else {}
    state = loaded.get("state_dict", loaded) if isinstance(loaded, dict) else {}
    tensors = {n: t for n, t in state.items() if isinstance(t, Tensor)} if isinstance(state, Mapping) else {}
    entries, readers = {}, {}
    for name, tensor in tensors.items():
        entry = Entry(name, tuple(tensor.shape), tensor.dtype, file, _offset(tensor, offsets))
        entries[name] = entry
        readers[name] = partial(tensors.__getitem__, name) if entry.offset is None else entry.mapped
    return Tensors(entries, readers)


def _refused(file: Path, error: pickle.UnpicklingError) -> str:
    """What a pickle holds that could run code, and what to do."""
    try:
        unsafe = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except (ValueError, RuntimeError, pickle.UnpicklingError):  # it knows nothing of old pickles
        unsafe = re.findall(r"GLOBAL (\S+)", str(error))
    if not unsafe:
        return "it is no pickle of tensors"
    return (
        f"beside tensors it holds {_listed(sorted(set(unsafe)))}, and loading these could run any code. "
        "Convert it to safetensors first, in a place where that can do no harm"
    )


def _offsets(file: Path, loaded: Any) -> dict[int, int]:
    """Where each storage of a mapped checkpoint is in the file, by its address.

    Raises:
        ValueError: a storage is not as long as its record in the zip; mapping takes the pickle's word for that.
    """
    storages: dict[int, tuple[str, int]] = {}
    for name, tensor in _tensors_in(loaded):
        storage = tensor.untyped_storage()
        if storage.nbytes():
            storages.setdefault(storage.data_ptr(), (name, storage.nbytes()))
    with zipfile.ZipFile(file) as archive:
        records = sorted((r for r in archive.infolist() if "/data/" in r.filename), key=lambda r: r.header_offset)
    records = [record for record in records if record.file_size]
    if len(records) != len(storages):
        raise _unreadable(file, f"it has {len(records)} records for {len(storages)} storages")
    in_order = sorted(storages)  # one mapping of the whole file: addresses follow each other as records do
    if lost := [storages[a][0] for a, r in zip(in_order, records, strict=True) if storages[a][1] != r.file_size]:
        raise _unreadable(file, f"incomplete are {_listed(lost)}")
    with file.open("rb") as opened:
        return {a: _begin(opened, record.header_offset) for a, record in zip(in_order, records, strict=True)}


def _begin(opened: BinaryIO, header: int) -> int:
    """Where the bytes of a zip's record begin: after its header, whose two last fields are lengths of what follows."""
    opened.seek(header + 26)
    name, extra = struct.unpack("<HH", opened.read(4))
    return header + 30 + name + extra


def _lost(file: Path) -> str:
    """What is certainly incomplete in a zipped checkpoint without its table: the pickle comes first, and tells of the
    storages in the order in which they follow."""
    try:
        from versatile_diffusion.interop.outline import Outline  # on a private class of torch

        with file.open("rb") as opened:
            opened.seek(_begin(opened, 0))
            outline = Outline(opened)
            tensors = dict(_tensors_in(outline.load()))
            room = file.stat().st_size - opened.tell()
        lost = [name for name, tensor in tensors.items() if outline.end_of(tensor) > room]
    except (
        ImportError,
        pickle.UnpicklingError,
        EOFError,
        LookupError,
        TypeError,
        ValueError,
        RuntimeError,
        struct.error,
    ):
        lost = []
    if lost:
        return f"by more than {outline.end - room:,} bytes; incomplete are {_listed(lost)}"
    return f"after {file.stat().st_size:,} bytes, and lacks the table at its end"


def _offset(tensor: Tensor, offsets: Mapping[int, int]) -> int | None:
    """Where a tensor is in the file, None if it is not in one piece there."""
    start = offsets.get(tensor.untyped_storage().data_ptr())
    if start is None or not tensor.is_contiguous():
        return None
    return start + int(tensor.storage_offset()) * tensor.itemsize


def _old_form_lacks(file: Path) -> int:
    """By how many bytes a pickle of before torch 1.6 is at least too short for its storages. It cannot be mapped: it is
    read as a whole."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    sizes = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for _, t in _tensors_in(loaded)}
    return max(0, sum(sizes.values()) - file.stat().st_size)


def _tensors_in(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _tensors_in(inner, str(key))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _tensors_in(inner, name)


def _unreadable(file: Path, reason: str) -> ValueError:
    with file.open("rb") as opened:
        start = opened.read(48).decode("ascii", errors="replace").partition("\n")[0]
    is_text = start.isascii() and start.isprintable() and start
    text = f"; it is a text that begins with {start!r}" if is_text else ""
    return ValueError(f"{file} cannot be read as weights: {reason}{text}")


def _listed(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
