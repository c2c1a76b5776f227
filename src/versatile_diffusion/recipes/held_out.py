"""Opening of held-out data sets."""

from __future__ import annotations

from pathlib import Path

from versatile_diffusion.evaluation.items import HeldOut
from versatile_diffusion.evaluation.own_data import OwnHeldOut
from versatile_diffusion.recipes.emoji.data.manifest import FILE_NAME
from versatile_diffusion.recipes.emoji.held_out import EmojiHeldOut
from versatile_diffusion.recipes.speech.data.build import FILE_NAME as SPOKEN
from versatile_diffusion.recipes.speech.held_out import SpeechHeldOut


def open_held_out(path: Path, encoding: str | None = None) -> HeldOut:
    """Open a set built by `versatile data emoji` or `versatile data speech`, or your own images with captions in any
    layout.

    Raises:
        ValueError: none of these.
    """
    if (path / SPOKEN).is_file():
        return SpeechHeldOut(path)
    return EmojiHeldOut(path) if (path / FILE_NAME).is_file() else OwnHeldOut(path, encoding)
