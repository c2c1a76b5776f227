"""Opening of held-out data sets."""

from __future__ import annotations

from pathlib import Path

from versatile_diffusion.evaluation.items import HeldOut
from versatile_diffusion.evaluation.own_data import OwnHeldOut
from versatile_diffusion.recipes.emoji.data.manifest import FILE_NAME
from versatile_diffusion.recipes.emoji.held_out import EmojiHeldOut


def open_held_out(path: Path, encoding: str | None = None) -> HeldOut:
    """Open a set built by `versatile data emoji`, or your own images with captions in any layout.

    Raises:
        ValueError: neither.
    """
    return EmojiHeldOut(path) if (path / FILE_NAME).is_file() else OwnHeldOut(path, encoding)
