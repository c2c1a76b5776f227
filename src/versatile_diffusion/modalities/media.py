"""Elements of web pages that show or play the files of a modality, by their media type."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from versatile_diffusion.modalities.modality import Modality

PICTURES = "image"
ELEMENTS: Mapping[str, str] = {
    PICTURES: '<img src="{address}" alt="{title}" title="{title}">',
    "audio": '<audio controls preload="none" src="{address}" title="{title}"></audio>',
}
"""By the first part of a media type."""


def kind_of(modality: Modality) -> str:
    """Return the first part of the media type; empty if browsers neither show nor play the files."""
    return modality.media.partition("/")[0]


def element(modality: Modality, address: str, title: str) -> str:
    """Return the element that shows or plays a file; empty if browsers do neither.

    Args:
        address: URL of the file, quoted.
        title: what the file is.
    """
    return ELEMENTS.get(kind_of(modality), "").format(address=escape(address), title=escape(title))


def needs_picture(modality: Modality) -> bool:
    """Return whether values can be drawn, and their files do not show that by themselves."""
    return modality.draw is not None and kind_of(modality) != PICTURES


def picture_of(modality: Modality, value: Any) -> Any:
    """Return the drawing of a value, any input that `check` accepts; None if it is not drawn."""
    return None if modality.draw is None else modality.draw(modality.check(value))
