"""Gallery tab: the results saved in the output folder, with favourites, comparison and deletion."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from html import escape
from itertools import islice
from typing import Any

import gradio as gr
from PIL import Image

from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.modalities.media import needs_picture
from versatile_diffusion.ui.forms.controls import PRIVATE
from versatile_diffusion.ui.page import stage
from versatile_diffusion.ui.page.kept import Kept, KeptFile
from versatile_diffusion.ui.page.panel import Panel
from versatile_diffusion.ui.page.results import Restorer, kinds_of, link_panel, session_of
from versatile_diffusion.ui.page.shelf import Made
from versatile_diffusion.ui.page.studio import Studio
from versatile_diffusion.ui.page.tiles import tile
from versatile_diffusion.ui.page.uploads import data_url

PAGE = 48
"""Results that are shown at first, and that each click on Show more adds."""
COLUMNS, COMPARED, SIDE = 6, 4, 512
STAR = "\u2605 "
FILTERS = (("All", "all"), ("This browser", "own"), ("Favourites", "favourites"))
SETTINGS: Mapping[str, str] = {
    "task": "Task",
    "prompt": "Prompt",
    "negative_prompt": "Negative prompt",
    "style": "Style",
    "seed": "Seed",
    "num_inference_steps": "Steps",
    "guidance_scale": "CFG scale",
    "scheduler": "Sampler",
    "fidelity": "Fidelity (1 - denoising strength)",
    "from_pretrained": "Model",
}
"""Settings that a comparison shows."""
CONFIRM = "(...given) => confirm('Delete this file?') ? given : given.map((value, k) => k === 1 ? -1 : value)"


@dataclass(frozen=True)
class GalleryFilter:
    """What the gallery shows. Args: only, search: see `Kept.entries`. most: number of results."""

    only: Any
    search: Any
    most: Any

    @property
    def parts(self) -> list[Any]:
        return [self.only, self.search, self.most]


@dataclass(frozen=True)
class Actions:
    """Buttons for the selected result of a panel."""

    again: Any
    star: Any
    compare: Any
    delete: Any

    @classmethod
    def draw(cls, panel: Panel) -> Actions:
        """Draw them at the end of a panel. Within its tab: gradio goes on in the parent of what is entered again."""
        with panel.box, gr.Row(elem_classes="deeds"):
            return cls(
                gr.Button("Reuse settings", size="md", min_width=120),
                gr.Button("Favourite", size="md", min_width=100),
                gr.Button("Compare", size="md", min_width=100),
                gr.Button("Delete", size="md", variant="stop", min_width=90),
            )


def gallery(studio: Studio, kept: Kept, restorer: Restorer) -> None:
    """Draw and connect the tab."""
    with gr.Tab("Gallery", id="gallery", elem_id="tab-gallery") as tab:
        with gr.Row(elem_classes="simple"):
            choices = [choice for choice in FILTERS if kept.shared or choice[1] != "all"]
            only = gr.Radio(choices, value=choices[0][1], label="Show", elem_id="gallery-only")
            search = gr.Textbox(label="Search prompts and captions", max_length=200, elem_id="gallery-search")
        hint = gr.HTML("", elem_id="gallery-hint")
        panels = [Panel.draw(data, "gallery", COLUMNS) for data in kinds_of(studio)]
        actions = [Actions.draw(panel) for panel in panels]
        more = gr.Button("Show more", size="sm", visible=False, elem_id="gallery-more")
        with gr.Column(elem_id="gallery-compared"):
            compared = gr.HTML("")
            chosen = gr.State([])
    wanted = GalleryFilter(only, search, gr.State(PAGE))
    outputs = [hint, more, *(output for panel in panels for output in panel.outputs)]

    def look(request: gr.Request, only: str, search: str, most: int) -> list[Any]:
        entries = kept.entries(studio.owner(session_of(request)), only, search or "")
        return listing_updates(kept, panels, [*islice(entries, most + 1)], most)

    def further(request: gr.Request, only: str, search: str, most: int) -> list[Any]:
        return [most + PAGE, *look(request, only, search, most + PAGE)]

    def look_anew(request: gr.Request) -> list[Any]:
        first = choices[0][1]
        return [first, "", PAGE, *look(request, first, "", PAGE)]

    tab.select(look_anew, None, [*wanted.parts, *outputs], queue=False, **PRIVATE)
    for event in (only.input, search.submit):
        event(look, wanted.parts, outputs, queue=False, **PRIVATE)
    more.click(further, wanted.parts, [wanted.most, *outputs], queue=False, **PRIVATE)

    def find(session: str, name: Any) -> Made | None:
        entry = kept.get(str(name), studio.owner(session))
        return None if entry is None else kept.shown(entry.made)

    for panel, buttons in zip(panels, actions, strict=True):
        link_panel(find, panel, restorer.drawn, restorer.tabs)
        _link_actions(studio, kept, (panel, buttons), restorer, (look, wanted, outputs), (compared, chosen))


def listing_updates(kept: Kept, panels: Iterable[Panel], entries: list[KeptFile], most: int) -> list[Any]:
    """Return updates that show these results, `most` at most."""
    said = stage.idle(f"Nothing here yet. Results are saved in {kept.folder}.") if not entries else ""
    updates: list[Any] = [said, gr.update(visible=len(entries) > most)]
    for panel in panels:
        mine = [entry for entry in entries[:most] if entry.made.data == panel.data]
        updates += panel.shown([entry.name for entry in mine], [_with_star(kept, entry) for entry in mine])
    return updates


def _with_star(kept: Kept, entry: KeptFile) -> Made:
    made = kept.shown(entry.made)
    return Made(made.data, STAR * entry.favourite + made.text, made.file, made.record, size=made.size)


def _link_actions(
    studio: Studio,
    kept: Kept,
    drawn: tuple[Panel, Actions],
    restorer: Restorer,
    listing: tuple[Any, GalleryFilter, list[Any]],
    comparison: tuple[Any, Any],
) -> None:
    """Connect the buttons for the selected result of a panel."""
    (panel, buttons), (look, wanted, outputs), (compared, chosen) = drawn, listing, comparison

    def entry_of(request: gr.Request, names: list[str], place: int) -> KeptFile | None:
        ok = 0 <= place < len(names)
        return kept.get(names[place], studio.owner(session_of(request))) if ok else None

    def favour(request: gr.Request, names: list[str], place: int, *given: Any) -> list[Any]:
        if (entry := entry_of(request, names, place)) is not None:
            kept.favour(entry, not entry.favourite)
        return look(request, *given)

    def remove(request: gr.Request, names: list[str], place: int, *given: Any) -> list[Any]:
        if (entry := entry_of(request, names, place)) is not None:
            kept.delete(entry)
        return look(request, *given)

    def reuse(request: gr.Request, names: list[str], place: int) -> list[Any]:
        entry = entry_of(request, names, place)
        return restorer.fill(session_of(request), str(entry.made.file) if entry else None)

    def beside(request: gr.Request, names: list[str], place: int, names_chosen: list[str]) -> list[Any]:
        entry, owner = entry_of(request, names, place), studio.owner(session_of(request))
        if entry is not None:
            others = [name for name in names_chosen if name != entry.name]
            names_chosen = others if entry.name in names_chosen else [*others, entry.name][-COMPARED:]
        entries = [found for name in names_chosen if (found := kept.get(name, owner)) is not None]
        shown = [replace(found, made=kept.shown(found.made)) for found in entries]
        return [side_by_side(shown), [found.name for found in entries]]

    at = [panel.numbers, panel.picked]
    buttons.star.click(favour, [*at, *wanted.parts], outputs, queue=False, **PRIVATE)
    buttons.delete.click(remove, [*at, *wanted.parts], outputs, queue=False, js=CONFIRM, **PRIVATE)
    buttons.again.click(reuse, at, restorer.outputs, queue=False, **PRIVATE)
    buttons.compare.click(beside, [*at, chosen], [compared, chosen], queue=False, **PRIVATE)


def side_by_side(entries: list[KeptFile]) -> str:
    """Return results beside each other, with the settings in which they differ."""
    if not entries:
        return ""
    if len(entries) == 1:
        return stage.idle(f"{entries[0].made.text}: select another result and click Compare again.")
    values = "".join(f"<td>{_value(entry)}</td>" for entry in entries)
    rows = "".join(
        f"<tr><th>{escape(label)}</th>{''.join(f'<td>{escape(said)}</td>' for said in row)}</tr>"
        for label, row in differences([entry.made.record for entry in entries])
    )
    same = "" if rows else "<p>Their settings are the same.</p>"
    return f'<div class="cells compared"><table><tr><th></th>{values}</tr>{rows}</table>{same}</div>'


def differences(records: list[Mapping[str, Any]]) -> Iterator[tuple[str, list[str]]]:
    """Yield label and values of each setting in which records differ."""
    for name, label in SETTINGS.items():
        row = ["" if (value := record.get(name)) is None else str(value) for record in records]
        if len(set(row)) > 1:
            yield label, row


def _value(entry: KeptFile) -> str:
    made = entry.made
    modality = MODALITIES[made.data]
    if modality.draw is None:
        return escape(made.text)
    if needs_picture(modality):
        return tile(made)
    with Image.open(made.file) as opened:
        return f'<img src="{data_url(opened.convert("RGB"), SIDE)}" alt="{escape(made.text)}">'
