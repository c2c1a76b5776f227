"""Result panel: a gallery or list, actions on the selected result, and its settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.modalities.media import needs_picture
from versatile_diffusion.ui.page.shelf import Made
from versatile_diffusion.ui.page.tiles import page_of, tiles

COLUMNS = 4
FILE_HOLDS = (
    "Settings are embedded in the file: drop it on this page to restore them. Input images are not embedded; "
    "keep your originals."
)
BESIDE_HOLDS = (
    "Settings are not embedded in the file: they are shown below, and saved results have them in a JSON file beside "
    "them, which this page restores. Input files are not included; keep your originals."
)


@dataclass
class Panel:
    """Components that show the results of one modality.

    Args:
        data: the modality.
        box: container, hidden while empty.
        items: a gallery of images, tiles of other values that are drawn, or a list of texts or files.
        numbers: keys of the results shown: numbers of the shelf, or names in the folder.
        picked: index of the selected result.
        send, download, settings: actions on the selected result, and its settings.
    """

    data: str
    box: Any
    items: Any
    numbers: Any
    picked: Any
    send: Any
    download: Any
    settings: Any

    @classmethod
    def draw(cls, data: str, name: str, columns: int = COLUMNS) -> Panel:
        """Args: data: modality of the results. name: of the tab. columns: of images."""
        inside = MODALITIES[data].embeds or MODALITIES[data].together
        with gr.Column(visible=False) as box:
            if MODALITIES[data].form == "painted":
                items: Any = gr.Gallery(
                    show_label=False,
                    columns=columns,
                    height="auto",
                    object_fit="contain",
                    format="png",
                    interactive=False,
                    elem_classes="results",
                    buttons=["download", "fullscreen"],
                    elem_id=f"{name}-{data}-items",
                )
            elif needs_picture(MODALITIES[data]):
                items = tiles(f"{name}-{data}-items")
            else:
                items = gr.Radio(
                    [], label=MODALITIES[data].plural.capitalize(), elem_classes="texts", elem_id=f"{name}-{data}-items"
                )
            with gr.Row(elem_classes="deeds"):
                send = gr.Dropdown([], label="Send to", value=None, min_width=140, elem_classes="send")
                download = gr.DownloadButton(f"Download{' with settings' * inside}", size="md", min_width=140)
            gr.HTML(f"<p>{FILE_HOLDS if inside else BESIDE_HOLDS}</p>", elem_classes=["help", "last"])
            with gr.Accordion("Settings of the selected result", open=False, elem_classes="last"):
                settings = gr.JSON(show_label=False, max_height=320)
        return cls(data, box, items, gr.State([]), gr.State(0), send, download, settings)

    @property
    def outputs(self) -> list[Any]:
        """Components that `shown` updates."""
        return [self.box, self.items, self.numbers, self.picked, self.download, self.settings]

    def shown(self, numbers: Sequence[Any], made: Sequence[Made]) -> list[Any]:
        """Return updates that show these results, the first one selected."""
        if not made:
            return [gr.update(visible=False), *[gr.skip()] * 5]
        if MODALITIES[self.data].form == "painted":
            items = gr.update(
                value=[(str(one.file), one.label or one.text or None) for one in made], selected_index=None
            )
        elif needs_picture(MODALITIES[self.data]):
            items = gr.update(value=page_of(made))
        else:
            lines = [f"{one.label}: {one.text}" if one.label else one.text for one in made]
            items = gr.update(choices=[(line, k) for k, line in enumerate(lines)], value=0)
        return [gr.update(visible=True), items, list(numbers), 0, *self.chosen(made[0])]

    @staticmethod
    def chosen(one: Made) -> list[Any]:
        """Return updates of download and settings for the selected result."""
        return [gr.update(value=str(one.file)), one.record]
