"""Panels of results and the transfers from them to other tabs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.ui.forms.controls import PRIVATE
from versatile_diffusion.ui.forms.restore import restore
from versatile_diffusion.ui.page import stage
from versatile_diffusion.ui.page.desk import one_sentence
from versatile_diffusion.ui.page.panel import Panel
from versatile_diffusion.ui.page.shelf import Made
from versatile_diffusion.ui.page.studio import Studio, Tab

Find = Callable[[str, Any], Made | None]
"""`(session, key) -> result`, or None if it is gone."""


def session_of(request: gr.Request) -> str:
    """Return the id of an open page."""
    return str(request.session_hash)


def on_shelf(studio: Studio) -> Find:
    """Return how the results of a session are found, by number."""
    return lambda session, number: studio.shelves.of(session).made.get(number)


def kinds_of(studio: Studio) -> list[str]:
    """Return the modalities that the model generates."""
    return list(dict.fromkeys(task.flow.data for task in studio.desk.pipe.tasks()))


def history(studio: Studio) -> list[Panel]:
    """Draw the tab with all results of the session."""
    with gr.Tab("History", id="history", elem_id="tab-history") as tab:
        hint = gr.HTML(stage.idle("Results are kept here until you close the page or leave it unused for hours."))
        panels = [Panel.draw(data, "history") for data in kinds_of(studio)]

    def look(request: gr.Request) -> list[Any]:
        made = studio.shelves.of(session_of(request)).made
        updates = [gr.update(visible=not made)]
        for panel in panels:
            numbers = [number for number, one in reversed(made.items()) if one.data == panel.data]
            updates += panel.shown(numbers, [made[number] for number in numbers])
        return updates

    tab.select(look, None, [hint, *(output for panel in panels for output in panel.outputs)], queue=False, **PRIVATE)
    return panels


def link_panel(find: Find, panel: Panel, tabs_drawn: Sequence[Tab], tabs: Any) -> None:
    """Connect a panel: selecting a result shows its settings; sending it fills in an input of another tab."""
    targets = [(tab, name) for tab in tabs_drawn for modality, name in tab.form.accepts if modality == panel.data]
    homes = [tab.form.title for tab, _ in targets]
    labels = [
        title if homes.count(title) == 1 else f"{title}: {tab.inputs[name].label}"
        for title, (tab, name) in zip(homes, targets, strict=True)
    ]
    panel.send.choices = [(label, label) for label in labels]

    def result(request: gr.Request, numbers: list[Any], place: int) -> Made | None:
        return find(session_of(request), numbers[place]) if place < len(numbers) else None

    def choose(request: gr.Request, numbers: list[Any], event: gr.SelectData) -> list[Any]:
        place = event.index if isinstance(event.index, int) else 0
        one = result(request, numbers, place)
        return [gr.skip()] * 3 if one is None else [place, *panel.chosen(one)]

    def send(request: gr.Request, label: str | None, numbers: list[Any], place: int) -> list[Any]:
        one = result(request, numbers, place)
        if label not in labels or one is None:
            return [gr.skip()] * (len(targets) + 2)
        at = labels.index(label)
        value = one.text if MODALITIES[one.data].form == "typed" else str(one.file)
        sent = [value if k == at else gr.skip() for k in range(len(targets))]
        # None instead of an update: gradio would reset the list without its choices.
        return [None, gr.Tabs(selected=targets[at][0].form.name), *sent]

    panel.items.select(choose, [panel.numbers], [panel.picked, panel.download, panel.settings], queue=False, **PRIVATE)
    outputs = [panel.send, tabs, *(tab.inputs[name] for tab, name in targets)]
    panel.send.input(send, [panel.send, panel.numbers, panel.picked], outputs, queue=False, **PRIVATE)


@dataclass(frozen=True)
class Restorer:
    """Fills in tabs from files. Args: studio, drawn, tabs, notice: parts of the page that change."""

    studio: Studio
    drawn: Sequence[Tab]
    tabs: Any
    notice: Any

    @property
    def outputs(self) -> list[Any]:
        """Components that `fill` updates."""
        return [self.notice, self.tabs, *(component for tab in self.drawn for component in tab.inputs.values())]

    def fill(self, session: str, path: str | None) -> list[Any]:
        """Return updates that fill in the tab of a file, and select it."""
        places = {tab.form.name: tab.inputs for tab in self.drawn}
        try:
            name, fields, said = restore(path, places, self.studio.shelves.of(session), self.studio.desk.pipe)
        except ValueError as error:
            return [stage.trouble(one_sentence(error)), gr.skip(), *[gr.skip()] * sum(map(len, places.values()))]
        updates = [
            fields.get(field, gr.skip()) if place == name else gr.skip()
            for place, inputs in places.items()
            for field in inputs
        ]
        return [stage.remark(said), gr.Tabs(selected=name), *updates]

    def link(self, button: Any) -> None:
        """Connect the restore button: settings are read from an uploaded output file."""

        def restore(request: gr.Request, path: str | None) -> list[Any]:
            return self.fill(session_of(request), path)

        button.upload(restore, [button], self.outputs, queue=False, **PRIVATE)
