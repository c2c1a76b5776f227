"""Printed summaries of data sets that were built."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from versatile_diffusion.cli.io.console import show


class BuiltSet(Protocol):
    """The manifest of a set: items by split and style or voice, and what was skipped, by reason."""

    @property
    def counts(self) -> dict[str, dict[str, int]]: ...
    @property
    def left_out(self) -> Any: ...
    @property
    def total(self) -> int: ...


def summary_of(folder: Path, manifest: BuiltSet) -> dict[str, Any]:
    """Return what `--json` prints."""
    counts, total, left_out = manifest.counts, manifest.total, manifest.left_out
    return {"folder": str(folder), "counts": counts, "total": total, "left_out": left_out}


def show_counts(manifest: BuiltSet) -> None:
    """Print the number of items of every split, and of all."""
    for split, row in manifest.counts.items():
        show(f"{split:13} {sum(row.values()):6}")
    show(f"{'all':13} {manifest.total:6}")
