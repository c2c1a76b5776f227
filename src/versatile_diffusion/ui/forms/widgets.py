"""Custom components: an image upload that accepts any file, and a mask painter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gradio as gr

from versatile_diffusion.modalities import MODALITIES

ASSETS = Path(__file__).parents[1] / "assets"
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}  # for every event
PICTURE, PAINTER, FILE = "a-picture", "a-painter", "a-file"


def asset(name: str) -> str:
    """Return the content of a page asset."""
    return (ASSETS / name).read_text(encoding="utf-8")


def picture(label: str, **options: Any) -> gr.Image:
    """Create an image upload. Its value is the path of the uploaded file, unread; `uploads.read_picture` reads it and
    reports errors for the user."""
    options = {"height": 220, "sources": ["upload", "clipboard"], "buttons": [], **options}
    drawn = gr.Image(label=label, type="filepath", image_mode=None, elem_classes=PICTURE, **options)
    # Not a subclass: gradio writes a stub file beside the source of each.
    drawn.preprocess = lambda payload: None if payload is None else payload.path  # type: ignore[method-assign]
    return drawn


def painter(label: str = "Mask") -> gr.HTML:
    """Create a canvas for painting a mask over an image; see `uploads.canvas` and `uploads.read_mask`."""
    return gr.HTML(
        None,
        label=label,
        html_template=asset("painter.html"),
        js_on_load=asset("painter.js"),
        apply_default_css=False,
        elem_classes=PAINTER,
    )


def is_picture(component: Any) -> bool:
    """Return whether a component comes from `picture`."""
    return PICTURE in (component.elem_classes or ())


def is_painter(component: Any) -> bool:
    """Return whether a component comes from `painter`."""
    return PAINTER in (component.elem_classes or ())


def is_file(component: Any) -> bool:
    """Return whether a component's value is the path of an uploaded file that is no image."""
    return FILE in (component.elem_classes or ())


def _text(label: str) -> gr.Textbox:
    return gr.Textbox(label=label, lines=1, max_lines=4, max_length=500, autofocus=False, placeholder="a red apple")


def _other(label: str) -> gr.File:
    return gr.File(label=label, type="filepath", elem_classes=FILE)


def _recorder(label: str) -> gr.Audio:
    options: dict[str, Any] = {"sources": ["upload", "microphone"], "buttons": [], "elem_classes": FILE}
    return gr.Audio(label=label, type="filepath", **options)


INPUTS: Mapping[str, Callable[[str], Any]] = {
    "typed": _text,
    "painted": picture,
    "recorded": _recorder,
    "file": _other,
}
"""Input components, by the form of a modality."""


def form_of(modality: str) -> str:
    """Return the input form of a modality; a file if unknown."""
    return MODALITIES[modality].form if modality in MODALITIES else "file"


def value_input(modality: str, label: str) -> Any:
    """Create the input component for a value of a modality."""
    return INPUTS[form_of(modality)](label)
