"""All modalities, by name. Those of other packages join through entry points `versatile_diffusion.modalities`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points

from versatile_diffusion.modalities.base import Modality
from versatile_diffusion.modalities.image import IMAGE
from versatile_diffusion.modalities.text import TEXT

ENTRY_POINTS = "versatile_diffusion.modalities"


class ModalityTable(Mapping[str, Modality]):
    """Name to record. An entry point is only imported when its name is asked for."""

    def __init__(self, *records: Modality):
        self._records = {record.name: record for record in records}

    @cached_property
    def _entry_points(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=ENTRY_POINTS)}

    def __getitem__(self, name: str) -> Modality:
        if name not in self._records:
            self._records[name] = self._entry_points[name].load()
        return self._records[name]

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._records, *self._entry_points]))

    def __len__(self) -> int:
        return len(list(iter(self)))


MODALITIES = ModalityTable(IMAGE, TEXT)

__all__ = ["ENTRY_POINTS", "MODALITIES", "Modality", "ModalityTable"]
