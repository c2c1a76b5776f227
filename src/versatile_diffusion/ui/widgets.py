"""Components of ours: a picture that refuses nothing before we have seen it, and a painter of masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gradio as gr

ASSETS = Path(__file__).parent / "assets"
PICTURE, PAINTER = "a-picture", "a-painter"


def asset(name: str) -> str:
    """The text of a file that belongs to the page."""
    return (ASSETS / name).read_text(encoding="utf-8")


def picture(label: str, **options: Any) -> gr.Image:
    """An upload of a picture. Gives the path of the uploaded file, unread: `uploads.read_picture` reads it and finds
    words for people where it cannot."""
    options = {"height": 220, "sources": ["upload", "clipboard"], "buttons": [], **options}
    drawn = gr.Image(label=label, type="filepath", image_mode=None, elem_classes=PICTURE, **options)
    # Not a subclass: gradio writes a stub file beside the source of each.
    drawn.preprocess = lambda payload: None if payload is None else payload.path  # type: ignore[method-assign]
    return drawn


def painter(label: str = "Mask") -> gr.HTML:
    """A canvas to paint a mask over a picture; `uploads.canvas` makes its value and `uploads.read_mask` reads it."""
    return gr.HTML(
        None,
        label=label,
        html_template=asset("painter.html"),
        js_on_load=asset("painter.js"),
        apply_default_css=False,
        elem_classes=PAINTER,
    )


def is_picture(component: Any) -> bool:
    """Whether a component is one of `picture`."""
    return PICTURE in (component.elem_classes or ())


def is_painter(component: Any) -> bool:
    """Whether a component is one of `painter`."""
    return PAINTER in (component.elem_classes or ())


def _text(label: str) -> gr.Textbox:
    return gr.Textbox(label=label, lines=1, max_lines=4, max_length=500, autofocus=False, placeholder="a red apple")


def _other(label: str) -> gr.File:
    return gr.File(label=label, type="filepath")


INPUTS: Mapping[str, Callable[[str], Any]] = {"text": _text, "image": picture}
"""How a value of each modality is given; one from elsewhere is given as a file."""


def value_input(modality: str, label: str) -> Any:
    """The component in which a value of a modality is given."""
    return INPUTS.get(modality, _other)(label)
