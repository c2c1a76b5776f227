"""The page: a tab per form, its events, and transfers between tabs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import gradio as gr

from versatile_diffusion.tasks import TASKS
from versatile_diffusion.ui.forms.controls import PRIVATE
from versatile_diffusion.ui.forms.explain import explain_tab
from versatile_diffusion.ui.forms.restore import form_record
from versatile_diffusion.ui.forms.showcase import draw_showcase, is_prompted
from versatile_diffusion.ui.forms.tabs import SEED, Form, Values, seeded_examples, setting_of
from versatile_diffusion.ui.forms.widgets import asset, is_picture
from versatile_diffusion.ui.page import stage
from versatile_diffusion.ui.page.desk import one_sentence
from versatile_diffusion.ui.page.gallery import gallery
from versatile_diffusion.ui.page.guard import Guarded, forget_session
from versatile_diffusion.ui.page.models import models_panel
from versatile_diffusion.ui.page.panel import Panel
from versatile_diffusion.ui.page.results import Restorer, history, link_panel, on_shelf, session_of
from versatile_diffusion.ui.page.shelf import STUDIO, Made
from versatile_diffusion.ui.page.studio import Studio, Tab, Who, forms
from versatile_diffusion.ui.page.uploads import read_picture
from versatile_diffusion.ui.queue.jobs import Ask, StudioJob

IDLE = "Results appear here."
LOOK_EVERY = 0.1  # seconds
NOW = "(...given) => [...given.slice(0, -1), Date.now()]"  # the last input is the event's time


def build(studio: Studio) -> gr.Blocks:
    """Build the page."""
    limits = studio.desk.limits
    options: dict[str, Any] = {"analytics_enabled": False, "fill_width": True}
    small: dict[str, Any] = {"size": "sm", "scale": 0}
    with Guarded(title="Versatile Diffusion studio", **options) as page:
        with gr.Row(elem_classes="head"):
            gr.HTML(f"<h1>Versatile Diffusion</h1><p>Model: {studio.title}</p>", elem_id="title")
            restore = gr.UploadButton(
                "Restore from an image",
                **small,
                file_types=[".png", ".json"],
                elem_id="restore",
                min_width=170,
            )
            gr.Button("Dark mode", **small, min_width=120, elem_id="shade").click(
                None, js="() => versatileStudio.shade()", **PRIVATE
            )
        notice = gr.HTML("", elem_id="notice")
        models_panel(studio.desk, studio.shelves.model, studio.choices)
        menu = gr.HTML(
            None,
            html_template=asset("menu.html"),
            js_on_load=asset("menu.js"),
            apply_default_css=False,
            elem_classes="menu",
        )
        with gr.Tabs(elem_id="tabs") as tabs:
            drawn = [draw(studio, form) for form in forms(studio)]
            restorer = Restorer(studio, drawn, tabs, notice)
            restorer.link(restore)
            panels = [panel for tab in drawn for panel in tab.panels]
            if studio.kept is None:
                panels += history(studio)
            else:
                gallery(studio, studio.kept, restorer)
            explain_tab(studio.desk.pipe)
        for panel in panels:
            link_panel(on_shelf(studio), panel, drawn, tabs)
        menu.change(lambda name: gr.Tabs(selected=name) if name else gr.skip(), menu, tabs, queue=False, **PRIVATE)
        link_page(studio, page)
    return page.queue(default_concurrency_limit=None, max_size=4 * limits.waiting, api_open=False)


def link_page(studio: Studio, page: gr.Blocks) -> None:
    """Connect the opening and closing of a page."""
    browser = gr.Textbox(visible=False, max_length=100)

    def arrived(request: gr.Request, identity: str | None) -> None:
        login = f"login {request.username}" if request.username else ""
        studio.arrive(session_of(request), login or f"browser {identity}" if identity else login)

    def left(request: gr.Request) -> None:
        leave(studio, page, session_of(request))

    page.load(arrived, browser, None, js="() => [versatileStudio.opened()]", queue=False, **PRIVATE)
    page.unload(left)


def leave(studio: Studio, page: gr.Blocks, session: str) -> None:
    """Stop the requests of a closed page and remove its results."""
    studio.desk.leave(session)
    studio.shelves.leave(session)
    studio.owners.pop(session, None)
    forget_session(page, session)


def draw(studio: Studio, form: Form) -> Tab:
    """Draw a tab with inputs on the left and results on the right (below on a phone)."""
    limits = studio.desk.limits
    setting = setting_of(studio.desk.pipe, limits, TASKS.get(form.name) or _task_of(form))
    setting = replace(setting, last_seed=partial(last_seed, studio, form.name))
    with gr.Tab(form.title, id=form.name, elem_id=f"tab-{form.name}"):
        gr.HTML(f"<p>{form.help}</p>", elem_classes="help")
        with gr.Row(elem_classes="bench"):
            with gr.Column(scale=5, min_width=300):
                inputs = form.draw(setting)
                with gr.Row(elem_classes="go-row"):
                    look = gr.Button(form.first.button, min_width=120) if form.first else None
                    go = gr.Button(form.button, variant="primary", elem_classes="go", elem_id=f"{form.name}-go")
                examples = _examples(form, inputs)
            with gr.Column(scale=6, min_width=300):
                with gr.Row(elem_classes="stage-row"):
                    shown = gr.HTML(stage.idle(IDLE), elem_id=f"{form.name}-stage")
                    halt = gr.Button("Stop", variant="stop", size="sm", elem_classes="halt", scale=0, min_width=80)
                panels = [Panel.draw(data, form.name) for data in (form.data, *form.besides)]
                if is_prompted(form):
                    draw_showcase(studio.desk.pipe, inputs[form.example_names[0]], inputs[SEED])
        clock = gr.Number(visible=False)
    tab = Tab(form, inputs, panels, shown, clock)
    link(studio, tab, go, halt, examples)
    if look is not None:
        link_first(studio, tab, look)
    return tab


def last_seed(studio: Studio, place: str, session: str) -> int | None:
    """Return the seed of the latest run of a tab; None if there is none."""
    for made in reversed(studio.shelves.of(session).made.values()):
        if made.record.get(STUDIO, {}).get("tab") == place and made.record.get("seeds"):
            return made.record["seeds"][0]
    return None


def _task_of(form: Form) -> Any:
    """Return the task whose defaults a form without a task uses: the last with the same output and the most
    contexts."""
    alike = [task for task in TASKS.values() if task.flow.data == form.data]
    return max(alike, key=lambda task: len(task.flow.contexts), default=None)


def _examples(form: Form, inputs: Mapping[str, Any]) -> Any:
    if not form.examples:
        return None
    names, rows = seeded_examples(form)
    return gr.Examples(
        [list(row) for row in rows],
        [inputs[name] for name in names],
        label="Examples (click to run)",
        example_labels=list(form.example_labels) or None,
        examples_per_page=8,
        visible_columns=[
            k for k, name in enumerate(names) if inputs[name].visible and "." not in name and name != SEED
        ],
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
    for component in components:
        if is_picture(component):
            component.upload(after_upload, [component, tab.stage], tab.stage, queue=False, **PRIVATE)
    halt.click(stop, tab.clock, queue=False, js=NOW, **PRIVATE)


def after_upload(path: str | None, shown: str) -> Any:
    """Return the status after an upload: whether the file can be read is said at once."""
    try:
        read_picture(path)
    except ValueError as error:
        return stage.trouble(one_sentence(error))
    return stage.idle(IDLE) if stage.is_trouble(shown) else gr.skip()


def link_first(studio: Studio, tab: Tab, button: Any) -> None:
    """Connect the preliminary pass, which fills in its text."""
    first, names = tab.form.first, list(tab.inputs)
    assert first is not None

    async def look(request: gr.Request, *given: Any) -> AsyncIterator[list[Any]]:
        values = dict(zip(names, given[:-1], strict=True))
        who = Who.of(request, tab.form.name, given[-1])
        async for job in follow(studio, who, first.asks, values):
            text = job.outputs[0].texts[0] if isinstance(job, StudioJob) and job.state == "done" else gr.skip()
            yield [stage.of(job) if isinstance(job, StudioJob) else job, text]

    outputs = [tab.stage, tab.inputs[first.into]]
    button.click(look, [*tab.inputs.values(), tab.clock], outputs, js=NOW, **PRIVATE)


async def follow(
    studio: Studio, who: Who, asks: Callable[[Values], Iterable[Ask]], values: Values
) -> AsyncIterator[StudioJob | str]:
    """Follow a request from submission to end: yields the job at each change, or a message before there is one."""
    job: StudioJob | None = None
    yield stage.show_sending()
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
    async for job in follow(studio, who, tab.form.asks, values):
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
    told = save(studio, job.person, [*made.values()])
    told += stage.candidates_table(
        [row for output in job.outputs for row in output.considered] if sheet is None else ()
    )
    return (sheet.table if sheet else "") + told, [*made], [*made.values()]


def save(studio: Studio, session: str, made: Iterable[Made]) -> str:
    """Save results in the folder, if there is one; return a message if that fails, since the page still has them."""
    if studio.kept is None:
        return ""
    try:
        for one in made:
            studio.kept.save(one, studio.owner(session))
    except OSError as error:
        return stage.trouble(f"Not saved in {studio.kept.folder} ({error.strerror or error}); download what you need.")
    return ""


def head() -> str:
    """Return the content of the page's head."""
    return f"<script>{asset('studio.js')}</script>"
