"""The page: a tab for each form, what happens in it, and what goes from tab to tab."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from versatile_diffusion.tasks import TASKS
from versatile_diffusion.ui import stage
from versatile_diffusion.ui.application_forms import application_forms
from versatile_diffusion.ui.controls import PRIVATE
from versatile_diffusion.ui.desk import Desk, one_sentence
from versatile_diffusion.ui.explain import explain_tab
from versatile_diffusion.ui.forms import Form, Values, setting_of, task_form
from versatile_diffusion.ui.guard import Guarded
from versatile_diffusion.ui.jobs import Ask, Job
from versatile_diffusion.ui.panel import Panel
from versatile_diffusion.ui.restore import filled_in, restored
from versatile_diffusion.ui.shelf import Made, Shelves
from versatile_diffusion.ui.widgets import asset

LOOK_EVERY = 0.1  # seconds
NOW = "(...given) => [...given.slice(0, -1), Date.now()]"  # the last input is when the event was


@dataclass(frozen=True)
class Studio:
    """What the page works with.

    Args:
        desk: takes requests; it has the model.
        shelves: keep results.
        title: of the model.
    """

    desk: Desk
    shelves: Shelves
    title: str


@dataclass(frozen=True)
class Tab:
    """A form as drawn.

    Args:
        form: what it asks for.
        inputs: its components by name.
        panels: its results, one for each modality that may come.
        stage: where a request stands.
        clock: gets the time of an event.
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
        """Updates of them that show these results."""
        updates = []
        for panel in self.panels:
            mine = [(number, one) for number, one in zip(numbers, made, strict=True) if one.data == panel.data]
            updates += panel.shown([number for number, _ in mine], [one for _, one in mine])
        return updates


@dataclass(frozen=True)
class Who:
    """Who asks, in which tab, and when, by the clock of their browser; None where there is no browser."""

    person: str
    place: str
    begun: float | None


def forms(studio: Studio) -> list[Form]:
    """All that this model can do: the tasks, then the applications."""
    pipe = studio.desk.pipe
    return [*(task_form(task) for task in TASKS.values() if pipe.can(task.flow)), *application_forms(pipe)]


def build(studio: Studio) -> gr.Blocks:
    """The page as an app."""
    options: dict[str, Any] = {"analytics_enabled": False, "delete_cache": (600, 6 * 3600), "fill_width": True}
    with Guarded(title="Versatile Diffusion studio", **options) as page:
        with gr.Row(elem_classes="head"):
            gr.HTML(f"<h1>Versatile Diffusion</h1><p>one model for all tabs: {studio.title}</p>", elem_id="title")
            restore = gr.UploadButton(
                "Restore from a picture",
                size="sm",
                file_types=[".png", ".json"],
                elem_id="restore",
                scale=0,
                min_width=170,
            )
            gr.Button("Light or dark", size="sm", scale=0, min_width=120, elem_id="shade").click(
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
            leave(studio, request)

        page.unload(left)
    return page.queue(default_concurrency_limit=None, max_size=4 * studio.desk.limits.waiting)


def leave(studio: Studio, request: gr.Request) -> None:
    """Somebody has closed the page."""
    studio.desk.leave(str(request.session_hash))
    studio.shelves.leave(str(request.session_hash))


def draw(studio: Studio, form: Form) -> Tab:
    """A tab with inputs at the left and results at the right (below, on a phone)."""
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
    """The task whose defaults suit a form that is none itself: the last that makes the same from most."""
    alike = [task for task in TASKS.values() if task.flow.data == form.data]
    return max(alike, key=lambda task: len(task.flow.contexts), default=None)


def _examples(form: Form, inputs: Mapping[str, Any]) -> Any:
    if not form.examples:
        return None
    names = form.example_names
    return gr.Examples(
        [list(row) for row in form.examples],
        [inputs[name] for name in names],
        label="Examples (a click runs one)",
        example_labels=list(form.example_labels) or None,
        examples_per_page=8,
        visible_columns=[k for k, name in enumerate(names) if "." not in name],
        api_visibility="private",
    )


def link(studio: Studio, tab: Tab, go: Any, halt: Any, examples: Any) -> None:
    """What buttons, keys and examples do."""
    names, components = list(tab.inputs), list(tab.inputs.values())

    async def run(request: gr.Request, *given: Any) -> AsyncIterator[list[Any]]:
        who = Who(str(request.session_hash), tab.form.name, given[-1])
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
    """The pass before the others: its text is filled in."""
    first, names = tab.form.first, list(tab.inputs)
    assert first is not None

    async def look(request: gr.Request, *given: Any) -> AsyncIterator[list[Any]]:
        values = dict(zip(names, given[:-1], strict=True))
        who = Who(str(request.session_hash), tab.form.name, given[-1])
        async for job in watched(studio, who, first.asks, values):
            text = job.outputs[0].texts[0] if isinstance(job, Job) and job.state == "done" else gr.skip()
            yield [stage.of(job) if isinstance(job, Job) else job, text]

    outputs = [tab.stage, tab.inputs[first.into]]
    button.click(look, [*tab.inputs.values(), tab.clock], outputs, js=NOW, **PRIVATE)


async def watched(
    studio: Studio, who: Who, asks: Callable[[Values], list[Ask]], values: Values
) -> AsyncIterator[Job | str]:
    """A request from its first to its last sign of life: the job whenever there is news of it, or what to say
    while there is none."""
    job: Job | None = None
    yield stage.sent()
    try:
        job = studio.desk.submit(who.person, who.place, await asyncio.to_thread(asks, values))
        if who.begun is not None and studio.desk.halted(who.person, who.place, who.begun):
            studio.desk.stop(job)  # they did not wait until it was in the queue
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
            studio.desk.stop(job)  # whoever closed the page does not wait any more


async def serve(studio: Studio, tab: Tab, who: Who, values: Values) -> AsyncIterator[list[Any]]:
    """A request of a tab, as updates of its stage and its panel."""
    nothing = [gr.skip()] * len(tab.outputs)
    async for job in watched(studio, who, tab.form.asks, values):
        if isinstance(job, str):
            yield [job, *nothing]
        elif job.state == "done":
            table, numbers, made = await asyncio.to_thread(finish, studio, tab, job, values)
            yield [stage.of(job) + table, *tab.shown(numbers, made)]
        else:
            yield [stage.of(job), *nothing]


def finish(studio: Studio, tab: Tab, job: Job, values: Mapping[str, Any]) -> tuple[str, list[int], list[Made]]:
    """Keeps what a job made; a table of it, the numbers and the results themselves."""
    shelf = studio.shelves.of(job.person)
    numbers = studio.shelves.keep(job, filled_in(tab.inputs, values, shelf))
    sheet = tab.form.together(values, job.outputs, studio.shelves.model) if tab.form.together else None
    if sheet is not None:
        numbers = [studio.shelves.keep_sheet(job, sheet), *numbers]
    return sheet.table if sheet else "", numbers, [shelf.made[number] for number in numbers]


def history(studio: Studio) -> list[Panel]:
    """The tab of all that was made in this session."""
    kinds = list(dict.fromkeys(task.flow.data for task in studio.desk.pipe.tasks()))
    with gr.Tab("History", id="history", elem_id="tab-history") as tab:
        hint = gr.HTML(stage.idle("What you make in this session is kept here until you close the page."))
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
    """Choosing a result shows its settings; sending it fills in an input of another tab and goes there."""
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
        value = str(one.file) if one.data == "image" else one.text
        sent = [value if k == at else gr.skip() for k in range(len(targets))]
        # None and no update: gradio would make the list anew as it was first drawn, without its choices.
        return [None, gr.Tabs(selected=targets[at][0].form.name), *sent]

    panel.items.select(choose, [panel.numbers], [panel.picked, panel.download, panel.settings], queue=False, **PRIVATE)
    outputs = [panel.send, tabs, *(tab.inputs[name] for tab, name in targets)]
    panel.send.input(send, [panel.send, panel.numbers, panel.picked], outputs, queue=False, **PRIVATE)


def link_restore(studio: Studio, button: Any, notice: Any, drawn: Sequence[Tab], tabs: Any) -> None:
    """A file that was made here (or on the command line) brings its settings back."""
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
    """What goes into the head of the page."""
    return f"<script>{asset('studio.js')}</script>"
