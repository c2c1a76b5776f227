"""Sample sheets for monitoring a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.sheets import in_rows


def write_sheet(rows: Sequence[tuple[str, Sequence[Any]]], path: Path) -> None:
    """Write inputs above outputs: a grid of values that can be drawn, and numbered lines of the others.

    Args:
        rows: the modality of each row, and its values.
        path: of the new files, without extension.
    """
    known = [(MODALITIES[name], values) for name, values in rows]
    drawn = [[modality.draw(value) for value in values] for modality, values in known if modality.draw is not None]
    if drawn:
        in_rows(*drawn, columns=len(drawn[0])).save(path.with_suffix(".png"))
    words = [
        values if modality.plain else [modality.line(value) for value in values]
        for modality, values in known
        if modality.draw is None
    ]
    if words:
        texts = [" -> ".join(column) for column in zip(*words, strict=True)]
        path.with_suffix(".txt").write_text("".join(f"{n}: {text}\n" for n, text in enumerate(texts)))
