"""The pickle of a zipped checkpoint without its numbers, for files whose end is lost."""

from __future__ import annotations

from typing import Any, BinaryIO

import torch
from torch import Tensor
from torch._weights_only_unpickler import Unpickler


class Outline(Unpickler):
    """Reads tensors on the meta device from an open file that stands at the beginning of the pickle. As with
    `weights_only=True` nothing but tensors is made.

    Attributes:
        end: bytes of all storages together.
    """

    def __init__(self, opened: BinaryIO) -> None:
        super().__init__(opened)
        self.end = 0
        self._storages: dict[str, torch.TypedStorage] = {}
        self._ends: dict[int, int] = {}

    def persistent_load(self, saved: tuple[Any, ...]) -> torch.TypedStorage:
        """A storage, which the pickle names by its kind, number and length."""
        _, kind, key, _, count = saved
        if key not in self._storages:
            dtype = getattr(kind, "dtype", torch.uint8)
            storage = torch.UntypedStorage(count * dtype.itemsize, device="meta")
            self._storages[key] = torch.TypedStorage(wrap_storage=storage, dtype=dtype, _internal=True)
            self.end += storage.nbytes()
            self._ends[storage._cdata] = self.end
        return self._storages[key]

    def end_of(self, tensor: Tensor) -> int:
        """Where the storage of a tensor ends if the storages follow each other with nothing between them."""
        return self._ends[tensor.untyped_storage()._cdata]
