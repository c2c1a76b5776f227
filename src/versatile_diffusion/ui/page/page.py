"""The page: a tab per form, its events, and transfers between tabs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.serving.clients import client_of
from versatile_diffusion.tasks import TASKS
from versatile_diffusion.ui.forms.applications import application_forms
from versatile_diffusion.ui.forms.controls import PRIVATE
from versatile_diffusion.ui.forms.explain import explain_tab
from versatile_diffusion.ui.forms.restore import form_record, restored
from versatile_diffusion.ui.forms.tabs import Form, Values, setting_of, task_form
from versatile_diffusion.ui.forms.widgets import asset
from versatile_diffusion.ui.page import stage
from versatile_diffusion.ui.page.desk import Desk, one_sentence
from versatile_diffusion.ui.page.guard import Guarded, forget_session
from versatile_diffusion.ui.page.panel import Panel
from versatile_diffusion.ui.page.shelf import Made, Shelves
from versatile_diffusion.ui.queue.jobs import Ask, StudioJob

LOOK_EVERY = 0.1  # seconds
NOW = "(...given) => [...given.slice(0, -1), Date.now()]"  # the last input is the event's time


@dataclass(frozen=True)
class Studio:
    """Parts of the studio that the page uses.

    Args:
        desk: processes requests; has the model.
        shelves: store results.
        title: name of the model.
    """

    desk: Desk
    shelves: Shelves
    title: str


@dataclass(frozen=True)
class Tab:
    """A drawn form.

    Args:
        form: its definition.
        inputs: components by name.
        panels: result panels, one per output modality.
        stage: status of the request.
        clock: receives the time of an event.
    """

    form: Form
    inputs: Mapping[str, Any]
    panels: Sequence[Panel]
    stage: Any
    clock: Any

    @property
    def outputs(self) -> list[Any]:
        """Components of all panels."""
        return [output for panel in self.panels for output in panel.outputs]

    def shown(self, numbers: Sequence[int], made: Sequence[Made]) -> list[Any]:
        """Return updates of the panels that show these results."""
        updates = []
        for panel in self.panels:
            mine = [(number, one) for number, one in zip(numbers, made, strict=True) if one.data == panel.data]
            updates += panel.shown([number for number, _ in mine], [one for _, one in mine])
        return updates


@dataclass(frozen=True)
class Who:
    """Sender of a request: person, tab, and time by the browser's clock; None without a browser."""

    person: str
    place: str
    begun: float | None
    client: str

    @classmethod
    def of(cls, request: gr.Request, place: str, begun: float | None) -> Who:
        address = request.client.host if request.client else None
        return cls(str(request.session_hash), place, begun, client_of(address, request.username))


def forms(studio: Studio) -> list[Form]:
    """Return the forms that this model supports: tasks, then applications."""
    pipe = studio.desk.pipe
    return [*map(task_form, pipe.tasks()), *application_forms(pipe)]


def build(studio: Studio) -> gr.Blocks:
    """Build the page."""
    limits = studio.desk.limits
    options: dict[str, Any] = {"analytics_enabled": False, "fill_width": True}
    with Guarded(title="Versatile Diffusion studio", **options) as page:
        with gr.Row(elem_classes="head"):
            gr.HTML(f"<h1>Versatile Diffusion</h1><p>Model: {studio.title}</p>", elem_id="title")
            restore = gr.UploadButton(
                "Restore from an image",
                size="sm",
                file_types=[".png", ".json"],
                elem_id="restore",
                scale=0,
                min_width=170,
            )
            gr.Button("Dark mode", size="sm", scale=0, min_width=120, elem_id="shade").click(
                None, js="() => document.body.classList.toggle('dark')", **PRIVATE
            )
        notice = gr.HTML("", elem_id="notice")
        with gr.Tabs(elem_id="tabs") as tabs:
            drawn = [draw(studio, form) for form in forms(studio)]
            panels = history(studio)
            explain_tab(studio.desk.pipe)
        for panel in [*(panel for tab in drawn for panel in tab.panels), *panels]:
            link_panel(studio, panel, drawn, tabs)
        link_restore(studio, restore, notice, drawn, tabs)

        def left(request: gr.Request) -> None:
            leave(studio, page, str(request.session_hash))

        page.unload(left)
    return page.queue(default_concurrency_limit=None, max_size=4 * limits.waiting, api_open=False)


def leave(studio: Studio, page: gr.Blocks, session: str) -> None:
    """Stop the requests of a closed page and remove its results."""
    studio.desk.leave(session)
    studio.shelves.leave(session)
    forget_session(page, session)


def draw(studio: Studio, form: Form) -> Tab:
    """Draw a tab with inputs on the left and results on the right (below on a phone)."""
    limits = studio.desk.limits
    setting = setting_of(studio.desk.pipe, limits, TASKS.get(form.name) or _task_of(form))
    with gr.Tab(form.title, id=form.name, elem_id=f"tab-{form.name}"):
        gr.HTML(f"<p>{form.help}</p>", elem_classes="help")
        with gr.Row(elem_classes="bench"):
            with gr.Column(scale=5, min_width=300):
                inputs = form.draw(setting)
                with gr.Row(elem_classes="go-row"):
                    look = gr.Button(form.first.button, min_width=120) if form.first else None
                    go = gr.Button(form.button, variant="primary", elem_classes="go", elem_id=f"{form.name}-go")
                    halt = gr.Button("Stop", variant="stop", elem_classes="halt", scale=0, min_width=90)
                examples = _examples(form, inputs)
            with gr.Column(scale=6, min_width=300):
                shown = gr.HTML(stage.idle("Results appear here."), elem_id=f"{form.name}-stage")
                panels = [Panel.draw(data, form.name) for data in (form.data, *form.besides)]
        clock = gr.Number(visible=False)
    tab = Tab(form, inputs, panels, shown, clock)
    link(studio, tab, go, halt, examples)
    if look is not None:
        link_first(studio, tab, look)
    return tab


def _task_of(form: Form) -> Any:
    """Return the task whose defaults a form without a task uses: the last with the same output and the most
    contexts."""
    alike = [task for task in TASKS.values() if task.flow.data == form.data]
    return max(alike, key=lambda task: len(task.flow.contexts), default=None)


def _examples(form: Form, inputs: Mapping[str, Any]) -> Any:
    if not form.examples:
        return None
    names = form.example_names
    return gr.Examples(
        [list(row) for row in form.examples],
        [inputs[name] for name in names],
        label="Examples (click to run)",
        example_labels=list(form.example_labels) or None,
        examples_per_page=8,
        visible_columns=[k for k, name in enumerate(names) if "." not in name],
        api_visibility="private",
    )


def link(studio: Studio, tab: Tab, go: Any, halt: Any, examples: Any) -> None:
    """Connect buttons, keys and examples."""
    names, components = list(tab.inputs), list(tab.inputs.values())

    async def run(request: gr.Request, *given: Any) -> AsyncIterator[list[Any]]:
        who = Who.of(request, tab.form.name, given[-1])
        async for update in serve(studio, tab, who, dict(zip(names, given[:-1], strict=True))):
            yield update

    def stop(request: gr.Request, now: float) -> None:
        studio.desk.halt(str(request.session_hash), tab.form.name, now)

    submits = [c.submit for c in components if isinstance(c, gr.Textbox)]
    triggers = [go.click, *submits, *([examples.load_input_event.success] if examples else [])]
    outputs = [tab.stage, *tab.outputs]
    for trigger in triggers:
        trigger(run, [*components, tab.clock], outputs, js=NOW, **PRIVATE)
    halt.click(stop, tab.clock, queue=False, js=NOW, **PRIVATE)


def link_first(studio: Studio, tab: Tab, button: Any) -> None:
    """Connect the preliminary pass, which fills in its text."""
    first, names = tab.form.first, list(tab.inputs)
    assert first is not None

    async def look(request: gr.Request, *given: Any) -> AsyncIterator[list[Any]]:
        values = dict(zip(names, given[:-1], strict=True))
        who = Who.of(request, tab.form.name, given[-1])
        async for job in watched(studio, who, first.asks, values):
            text = job.outputs[0].texts[0] if isinstance(job, StudioJob) and job.state == "done" else gr.skip()
            yield [stage.of(job) if isinstance(job, StudioJob) else job, text]

    outputs = [tab.stage, tab.inputs[first.into]]
    button.click(look, [*tab.inputs.values(), tab.clock], outputs, js=NOW, **PRIVATE)


async def watched(
    studio: Studio, who: Who, asks: Callable[[Values], Iterable[Ask]], values: Values
) -> AsyncIterator[StudioJob | str]:
    """Follow a request from submission to end: yields the job at each change, or a message before there is one."""
    job: StudioJob | None = None
    yield stage.sent()
    try:
        given = await asyncio.to_thread(asks, values)
        job = await asyncio.to_thread(studio.desk.submit, who.person, who.place, given, who.client)
        if who.begun is not None and studio.desk.halted(who.person, who.place, who.begun):
            studio.desk.stop(job)  # stopped before it was queued
        seen = -1
        while True:
            over = job.over
            if job.version != seen:
                seen = job.version
                yield job
            if over:
                return
            await asyncio.sleep(LOOK_EVERY)
    except ValueError as error:
        yield stage.trouble(one_sentence(error))
    finally:
        if job is not None:
            studio.desk.stop(job)  # the page was closed


async def serve(studio: Studio, tab: Tab, who: Who, values: Values) -> AsyncIterator[list[Any]]:
    """Yield a request's progress as updates of stage and panel."""
    nothing = [gr.skip()] * len(tab.outputs)
    async for job in watched(studio, who, tab.form.asks, values):
        if isinstance(job, str):
            yield [job, *nothing]
        elif job.state == "done":
            table, numbers, made = await asyncio.to_thread(finish, studio, tab, job, values)
            yield [stage.of(job) + table, *tab.shown(numbers, made)]
        else:
            yield [stage.of(job), *nothing]


def finish(studio: Studio, tab: Tab, job: StudioJob, values: Mapping[str, Any]) -> tuple[str, list[int], list[Made]]:
    """Store the results of a job; return a table of them, their numbers and the results."""
    shelf = studio.shelves.set_up(job.person, job.client)
    numbers = studio.shelves.keep(job, form_record(tab.inputs, values, shelf))
    sheet = tab.form.together(values, job.outputs, studio.shelves.model) if tab.form.together else None
    if sheet is not None:
        numbers = [studio.shelves.keep_sheet(job, sheet), *numbers]
    made = {number: shelf.made[number] for number in numbers if number in shelf.made}
    return sheet.table if sheet else "", [*made], [*made.values()]


def history(studio: Studio) -> list[Panel]:
    """Draw the tab with all results of the session."""
    kinds = list(dict.fromkeys(task.flow.data for task in studio.desk.pipe.tasks()))
    with gr.Tab("History", id="history", elem_id="tab-history") as tab:
        hint = gr.HTML(stage.idle("Results are kept here until you close the page or leave it unused for hours."))
        panels = [Panel.draw(data, "history") for data in kinds]

    def look(request: gr.Request) -> list[Any]:
        made = studio.shelves.of(str(request.session_hash)).made
        updates = [gr.update(visible=not made)]
        for panel in panels:
            numbers = [number for number, one in reversed(made.items()) if one.data == panel.data]
            updates += panel.shown(numbers, [made[number] for number in numbers])
        return updates

    tab.select(look, None, [hint, *(output for panel in panels for output in panel.outputs)], queue=False, **PRIVATE)
    return panels


def link_panel(studio: Studio, panel: Panel, tabs_drawn: Sequence[Tab], tabs: Any) -> None:
    """Connect a panel: selecting a result shows its settings; sending it fills in an input of another tab."""
    targets = [(tab, name) for tab in tabs_drawn for modality, name in tab.form.accepts if modality == panel.data]
    homes = [tab.form.title for tab, _ in targets]
    labels = [
        title if homes.count(title) == 1 else f"{title}: {tab.inputs[name].label}"
        for title, (tab, name) in zip(homes, targets, strict=True)
    ]
    panel.send.choices = [(label, label) for label in labels]

    def result(request: gr.Request, numbers: list[int], place: int) -> Made | None:
        made = studio.shelves.of(str(request.session_hash)).made
        return made.get(numbers[place]) if place < len(numbers) else None

    def choose(request: gr.Request, numbers: list[int], event: gr.SelectData) -> list[Any]:
        place = event.index if isinstance(event.index, int) else 0
        one = result(request, numbers, place)
        return [gr.skip()] * 3 if one is None else [place, *panel.chosen(one)]

    def send(request: gr.Request, label: str | None, numbers: list[int], place: int) -> list[Any]:
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


def link_restore(studio: Studio, button: Any, notice: Any, drawn: Sequence[Tab], tabs: Any) -> None:
    """Connect the restore button: settings are read from an uploaded output file."""
    places = {tab.form.name: tab.inputs for tab in drawn}

    def restore(request: gr.Request, path: str | None) -> list[Any]:
        shelf = studio.shelves.of(str(request.session_hash))
        try:
            name, fields, said = restored(path, places, shelf, studio.desk.pipe)
        except ValueError as error:
            return [stage.trouble(one_sentence(error)), gr.skip(), *[gr.skip()] * sum(map(len, places.values()))]
        updates = [
            fields.get(field, gr.skip()) if place == name else gr.skip()
            for place, inputs in places.items()
            for field in inputs
        ]
        return [stage.remark(said), gr.Tabs(selected=name), *updates]

    outputs = [notice, tabs, *(component for inputs in places.values() for component in inputs.values())]
    button.upload(restore, [button], outputs, queue=False, **PRIVATE)


def head() -> str:
    """Return the content of the page's head."""
    return f"<script>{asset('studio.js')}</script>"
