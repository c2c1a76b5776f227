"""Safe reader of torch pickles: plain values, and the positions of tensors in the file.

Nothing named in the file is imported or called: only tensors and plain values are created, everything else is skipped.
So checkpoints with a trainer's own objects can be read, and malicious ones cannot run code.
"""

from __future__ import annotations

import math
import pickle  # nosec B403 # a restricted reader: only tensors and plain values
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import torch

STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}
MAGIC = 0x1950A86A20F9469CFC6C
"""Start of a file from before torch 1.6: pickles, then the data of each storage with its count."""
MOST_PICKLE = 1 << 28
"""Maximum size of a pickle without tensor data; large checkpoints have a few hundred thousand bytes."""
LARGEST = 1 << 48
"""Maximum of a size, stride, offset or number of elements."""
MOST_AXES = 32
KEYS = (str, bytes, int, float, bool, type(None))
"""Allowed key types; hashing others could take forever."""
RUN_CODE = frozenset(("os", "posix", "nt", "sys", "subprocess", "commands", "pty", "runpy", "importlib", "shutil"))
RUN_CODE_BUILTINS = frozenset(("eval", "exec", "compile", "open", "__import__", "breakpoint", "input"))
"""Modules and functions that no checkpoint needs: a file that names one is an attack and is refused."""


@dataclass(frozen=True)
class Storage:
    """Data of tensors, by its key in the file."""

    key: str
    dtype: torch.dtype
    count: int

    @property
    def nbytes(self) -> int:
        return self.count * self.dtype.itemsize


@dataclass(frozen=True)
class StoredTensor:
    """A tensor and the position of its data; `offset` and `stride` are in elements."""

    storage: Storage
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def __post_init__(self) -> None:
        steps = all(type(n) is int and 0 <= n < LARGEST for n in (self.offset, *self.stride))
        if not plausible(self.shape) or not steps or len(self.shape) != len(self.stride):
            raise pickle.UnpicklingError("a tensor has an impossible shape")
        if self.end * self.dtype.itemsize > self.storage.nbytes:
            raise pickle.UnpicklingError(f"a tensor of shape {self.shape} is larger than its data")

    @property
    def end(self) -> int:
        """End of its data in elements; 0 if empty."""
        if 0 in self.shape:
            return 0
        return self.offset + 1 + sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))

    @property
    def contiguous(self) -> bool:
        step = 1
        for n, given in zip(reversed(self.shape), reversed(self.stride), strict=True):
            if n != 1 and given != step:
                return 0 in self.shape
            step *= n
        return True


def plausible(shape: tuple[Any, ...]) -> bool:
    """Return whether a tensor can have this shape."""
    sizes = len(shape) <= MOST_AXES and all(type(n) is int and 0 <= n < LARGEST for n in shape)
    return sizes and math.prod(max(n, 1) for n in shape) < LARGEST


class LeftOut(dict[str, Any]):
    """Placeholder of a skipped object. Items set by key are kept, as for dicts of another class."""

    def __new__(cls, *_args: Any, **_options: Any) -> LeftOut:
        return super().__new__(cls)

    def __init__(self, *_args: Any, **_options: Any) -> None:
        super().__init__()

    def __call__(self, *_args: Any, **_options: Any) -> LeftOut:
        return LeftOut()

    def append(self, _value: Any) -> None:
        """Ignore the value."""

    extend = append


class TensorsOnly(pickle._Unpickler):
    """Unpickler restricted to tensors and plain values.

    Attributes:
        storages: storages by key, in order of occurrence.
        left_out: names of skipped classes and functions.
    """

    stack: list[Any]
    pop_mark: Any
    dispatch: ClassVar[Any] = dict(pickle._Unpickler.dispatch)  # of opcodes
    for _opcode in (pickle.EXT1, pickle.EXT2, pickle.EXT4):
        del dispatch[_opcode[0]]

    def __init__(self, opened: BinaryIO) -> None:
        super().__init__(opened, encoding="utf-8", errors="replace")
        self.storages: dict[str, Storage] = {}
        self.left_out: dict[str, None] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Return the replacement of a class or function; names are never resolved."""
        full = f"{module}.{name}"
        if full in MADE:
            return MADE[full]
        if module.split(".")[0] == "torch":
            if name in STORAGES:
                return STORAGES[name]
            if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
                return getattr(torch, name)
        builtin = module in ("builtins", "__builtin__")
        if module.split(".")[0] in RUN_CODE or (builtin and name in RUN_CODE_BUILTINS):
            raise pickle.UnpicklingError(f"it asks for {full}, which runs code; do not use this file")
        self.left_out[full] = None
        return LeftOut

    def persistent_load(self, saved: Any) -> Storage:
        """Return the storage that a pickle refers to."""
        kind, dtype, key, _place, count, *view = saved
        if kind != "storage" or not isinstance(dtype, torch.dtype) or type(count) is not int or any(view):
            raise pickle.UnpicklingError(f"data of an unknown kind ({kind})")
        storage = Storage(str(key), dtype, count)
        if not 0 <= count < LARGEST or self.storages.setdefault(storage.key, storage) != storage:
            raise pickle.UnpicklingError(f"storage {storage.key} is described in two ways")
        return storage

    def set_items(self, pairs: list[Any]) -> None:
        """Set items by key on the object on the stack."""
        target = self.stack[-1]
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if isinstance(key, KEYS):
                target[key] = value

    def new_dict(self) -> None:
        """Create a dict from the stack above the mark."""
        pairs = self.pop_mark()
        self.stack.append({})
        self.set_items(pairs)

    dispatch[pickle.BUILD[0]] = lambda self: self.stack.pop()  # BUILD would modify existing objects
    dispatch[pickle.ADDITEMS[0]] = lambda self: self.pop_mark()
    dispatch[pickle.FROZENSET[0]] = lambda self: (self.pop_mark(), self.stack.append(LeftOut()))
    dispatch[pickle.SETITEM[0]] = lambda self: self.set_items([self.stack.pop(-2), self.stack.pop()])
    dispatch[pickle.SETITEMS[0]] = lambda self: self.set_items(self.pop_mark())
    dispatch[pickle.DICT[0]] = new_dict


def _tensor(storage: Storage, offset: int, size: Any, stride: Any, *_rest: Any) -> StoredTensor:
    return StoredTensor(storage, storage.dtype, offset, tuple(size), tuple(stride))


def _tensor_v3(
    storage: Storage, offset: int, size: Any, stride: Any, _grad: Any, _hooks: Any, *rest: Any
) -> StoredTensor:
    return StoredTensor(storage, rest[0], offset, tuple(size), tuple(stride))


def _first(value: Any, *_rest: Any) -> Any:
    return value


def _from_type(function: Callable[..., Any], _kind: Any, arguments: Any, _state: Any) -> Any:
    return function(*arguments)


def _plain_keys(pairs: Any = ()) -> dict[str, Any]:
    return {key: value for key, value in pairs if isinstance(key, str)}


MADE: dict[str, Any] = {
    "collections.OrderedDict": _plain_keys,
    "collections.defaultdict": lambda *_: {},
    "torch.Size": tuple,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._tensor._rebuild_from_type_v2": _from_type,
}
"""All functions that are called."""


@dataclass(frozen=True)
class Pickled:
    """Content of a torch file.

    Args:
        content: plain values, with `StoredTensor` for tensors.
        places: file offset of each storage's data.
        left_out: names of skipped classes and functions.
    """

    content: Any
    places: Mapping[str, int]
    left_out: tuple[str, ...]


def read_pickled(file: Path) -> Pickled:
    """Read a file written by `torch.save`, in either format.

    Raises:
        ValueError, pickle.UnpicklingError: truncated or damaged; other exceptions for malicious files.
    """
    with file.open("rb") as opened:
        is_zip = opened.read(4) == b"PK\x03\x04"
        if is_zip and not zipfile.is_zipfile(opened):
            raise ValueError(f"it is cut short {_describe_lost(file)}")
        opened.seek(0)
        return _read_zip(opened) if is_zip else _read_old(opened)


def _read_zip(opened: BinaryIO) -> Pickled:
    size = opened.seek(0, 2)
    with zipfile.ZipFile(opened) as archive:
        records = {record.filename: record for record in archive.infolist()}
        pickles = [name for name in records if name.partition("/")[2] == "data.pkl"]
        if len(pickles) != 1:
            raise ValueError("it is a zip file, but not from torch")
        folder = pickles[0].removesuffix("data.pkl")
        if f"{folder}constants.pkl" in records:
            raise ValueError("it is a TorchScript program, not weights")
        if f"{folder}byteorder" in records and archive.read(f"{folder}byteorder") != b"little":
            raise ValueError("its data is big-endian")
        if records[pickles[0]].file_size > MOST_PICKLE:
            raise ValueError(f"its pickle has more than {MOST_PICKLE:,} bytes")
        with archive.open(pickles[0]) as inner:
            unpickler = TensorsOnly(inner)  # type: ignore[arg-type]
            content = unpickler.load()
    places, lost = {}, []
    for key, storage in unpickler.storages.items():
        record = records.get(f"{folder}data/{key}")
        if record is None or record.file_size != storage.nbytes or record.compress_type != zipfile.ZIP_STORED:
            lost.append(key)
            continue
        places[key] = _begin(opened, record.header_offset)
        lost += [key] if places[key] + storage.nbytes > size else []
    if lost:
        names = [name for name, tensor in tensors_in(content) if tensor.storage.key in lost]
        raise ValueError(f"incomplete are {format_names(names or lost)}")
    return Pickled(content, places, tuple(unpickler.left_out))


def _read_old(opened: BinaryIO) -> Pickled:
    size = opened.seek(0, 2)
    opened.seek(0)
    if TensorsOnly(opened).load() != MAGIC:
        raise ValueError("it is not a pickle of tensors")
    _version, machine = TensorsOnly(opened).load(), TensorsOnly(opened).load()
    if not machine["little_endian"]:
        raise ValueError("its data is big-endian")
    unpickler = TensorsOnly(opened)
    content, places = unpickler.load(), {}
    for key in TensorsOnly(opened).load():
        storage = unpickler.storages[key]
        (count,) = struct.unpack("<q", opened.read(8))
        places[key] = opened.tell()
        if count != storage.count:
            raise ValueError(f"storage {key} has {count} elements, not {storage.count}")
        opened.seek(storage.nbytes, 1)
    if (short := opened.tell() - size) > 0:
        raise ValueError(f"it is cut short by {short:,} bytes")
    if lacking := unpickler.storages.keys() - places.keys():
        raise ValueError(f"it lacks the data of {len(lacking)} storages")
    return Pickled(content, places, tuple(unpickler.left_out))


def _begin(opened: BinaryIO, header: int) -> int:
    """Return the data offset of a zip record: after its header, whose last two fields are lengths."""
    opened.seek(header + 26)
    lengths: tuple[int, int] = struct.unpack("<HH", opened.read(4))
    return header + 30 + sum(lengths)


def _describe_lost(file: Path) -> str:
    """Describe what is certainly missing in a truncated zip checkpoint: the pickle comes first, and lists storages in
    file order."""
    try:
        with file.open("rb") as opened:
            opened.seek(_begin(opened, 0))
            unpickler = TensorsOnly(opened)
            content = unpickler.load()
            room = file.stat().st_size - opened.tell()
    except Exception:  # the pickle itself may be truncated
        return f"after {file.stat().st_size:,} bytes, and lacks the table at its end"
    end, ends = 0, {}
    for key, storage in unpickler.storages.items():
        ends[key] = end = end + storage.nbytes
    if lost := [name for name, tensor in tensors_in(content) if ends[tensor.storage.key] > room]:
        return f"by more than {end - room:,} bytes; incomplete are {format_names(lost)}"
    return f"after {file.stat().st_size:,} bytes, and lacks the table at its end"


def tensors_in(content: Any) -> Iterator[tuple[str, StoredTensor]]:
    """Yield all tensors with the last part of their names, each container once."""
    waiting, seen = [("", content)], set()
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, StoredTensor):
            yield name, value
        elif isinstance(value, Mapping | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            inner = value.items() if isinstance(value, Mapping) else ((name, one) for one in value)
            waiting += reversed([(str(key) if not isinstance(key, str) else key, one) for key, one in inner])


def format_names(names: Any, most: int = 3) -> str:
    """Format the first few names, for a message."""
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
