"""Elements of web pages that show or play the files of a modality, by their media type."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from html import escape
from io import BytesIO
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


def picture_of(modality: Modality, value: Any, title: str) -> str:
    """Return the drawing of a value as an element that holds it, needing no file.

    Args:
        value: anything that `check` accepts.
        title: what the value is.
    """
    assert modality.draw is not None
    modality.draw(modality.check(value)).save(stream := BytesIO(), "png")
    content = b64encode(stream.getvalue()).decode()
    return f'<img src="data:image/png;base64,{content}" alt="{escape(title)}">'
