"""Results that are drawn but are no images: a tile each, with the drawing, a player where there is one, and a line."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any
from urllib.parse import quote

import gradio as gr

from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.modalities.media import element, picture_of
from versatile_diffusion.ui.forms.widgets import asset
from versatile_diffusion.ui.page.shelf import Made

FILE = "gradio_api/file="
"""Of a file that the page may read, relative to the page."""


def tiles(elem_id: str) -> gr.HTML:
    """Create the component; a click on a tile selects it."""
    options: dict[str, Any] = {"apply_default_css": False, "elem_classes": "tiles"}
    return gr.HTML("", js_on_load=asset("tiles.js"), elem_id=elem_id, **options)


def page_of(made: Sequence[Made]) -> str:
    """Return tiles, the first one selected."""
    first = ' class="chosen" aria-current="true"'
    return f'<div class="sheet">{"".join(tile(one, first * (k == 0)) for k, one in enumerate(made))}</div>'


def tile(one: Made, more: str = "") -> str:
    """Return a result as a figure with the attributes `more`."""
    modality = MODALITIES[one.data]
    try:
        value = modality.check(str(one.file))
    except ValueError:  # deleted meanwhile
        return f"<figure{more}><figcaption>{escape(one.text)}</figcaption></figure>"
    title = one.label or one.text
    picture = picture_of(modality, value, title)
    player = element(modality, FILE + quote(str(one.file)), title)
    said = f"<figcaption>{escape(title)}<small>{escape(modality.line(value))}</small></figcaption>"
    button = f'<button type="button" aria-label="Select {escape(title)}">{picture}</button>'
    return f"<figure{more}>{button}{player}{said}</figure>"
