"""All modalities, by name. Other packages add theirs through the entry point group `versatile_diffusion.modalities`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from functools import cached_property
from importlib.metadata import EntryPoint, entry_points

from versatile_diffusion.modalities.modality import Modality
from versatile_diffusion.modalities.records import AUDIO, IMAGE, TEXT
from versatile_diffusion.printable import shown

ENTRY_POINTS = "versatile_diffusion.modalities"


class ModalityTable(Mapping[str, Modality]):
    """Modality records by name. Entry points are imported on first access; built-in records import no torch."""

    def __init__(self, *records: Modality):
        self._records = {record.name: record for record in records}

    @cached_property
    def _entry_points(self) -> dict[str, EntryPoint]:
        return {point.name: point for point in entry_points(group=ENTRY_POINTS)}

    def __getitem__(self, name: str) -> Modality:
        if name not in self._records:
            point = self._entry_points[name]
            try:
                self._records[name] = point.load()
            except Exception as error:  # a broken third-party package must not stop us
                del self._entry_points[name]
                warnings.warn(f"the modality {shown(name)} ({point.value}) cannot be loaded: {error}", stacklevel=2)
                raise KeyError(name) from error
        return self._records[name]

    def __iter__(self) -> Iterator[str]:
        return (name for name in dict.fromkeys([*self._records, *self._entry_points]) if name in self)

    def __len__(self) -> int:
        return len(list(iter(self)))

    def of_suffix(self, suffix: str) -> Modality | None:
        """Return the modality that reads files with this suffix; None if there is none."""
        return next((record for record in self.values() if suffix.lower() in record.suffixes), None)

    @property
    def suffixes(self) -> tuple[str, ...]:
        """Suffixes of all readable files."""
        return tuple(suffix for record in self.values() for suffix in record.suffixes)


MODALITIES = ModalityTable(IMAGE, TEXT, AUDIO)

__all__ = ["ENTRY_POINTS", "MODALITIES", "Modality", "ModalityTable"]
