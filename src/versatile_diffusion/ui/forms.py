"""Forms: what a tab asks for, and the runs that it stands for. One for each row in the table of tasks, and those of the
applications (`application_forms.py`)."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from versatile_diffusion.flow import Condition, Flow
from versatile_diffusion.sampling.models import shipped_models
from versatile_diffusion.tasks import Task
from versatile_diffusion.ui.controls import (
    Setting,
    arguments_of,
    condition,
    controls_of,
    draw_controls,
    draw_handles,
    link_painter,
    recoloured,
)
from versatile_diffusion.ui.jobs import Ask, Limits
from versatile_diffusion.ui.widgets import value_input

if TYPE_CHECKING:
    from versatile_diffusion import VersatileDiffusionPipeline
    from versatile_diffusion.ui.shelf import Sheet

Values = Mapping[str, Any]
Asks = Callable[[Values], list[Ask]]
Together = Callable[[Values, Sequence[Any], str], "Sheet | None"]
WHAT = {"text": "Text", "image": "Picture"}
EXAMPLE_TEXTS = ("a red apple", "a smiling face", "a cat face", "a green tree", "a red heart")
EXAMPLE_PICTURES = 5
ONE_CONTEXT = ("mask", "focus", "avoid", "start", "end", "region")
SEVERAL_CONTEXTS = ("weight", "mask", "focus", "scale", "negative", "avoid", "start", "end", "region")


@dataclass(frozen=True)
class First:
    """A pass before the others, which fills in an input.

    Args:
        button: what its button says.
        asks: its runs; the first text of theirs is filled in.
        into: the name of the input.
    """

    button: str
    asks: Asks
    into: str


@dataclass(frozen=True)
class Form:
    """What a tab asks for.

    Args:
        name: of the tab, as on the command line.
        title, help: for people.
        data: the modality that comes out.
        draw: draws all inputs; components by name.
        asks: the runs that filled-in values stand for; ValueError in words for people.
        accepts: inputs that take a result from another tab, as (modality, name).
        example_names: the inputs that examples fill in.
        examples: their values.
        button: what the button says.
        together: draws all results as one sheet: `(values, outputs, model)`, or None.
        first: a pass before, if there is one.
        besides: modalities of other results than `data`.
        example_labels: what examples are called, where their values do not tell.
    """

    name: str
    title: str
    help: str
    data: str
    draw: Callable[[Setting], dict[str, Any]]
    asks: Asks
    accepts: tuple[tuple[str, str], ...] = ()
    example_names: tuple[str, ...] = ()
    examples: tuple[tuple[Any, ...], ...] = ()
    button: str = "Generate"
    together: Together | None = None
    first: First | None = None
    besides: tuple[str, ...] = ()
    example_labels: tuple[str, ...] = ()


def sample_pictures() -> list[Path]:
    """Pictures to try things on: those that installed models bring along."""
    return [file for folder in shipped_models().values() for file in sorted((folder.parent / "samples").glob("*.png"))]


def setting_of(pipe: VersatileDiffusionPipeline, limits: Limits, task: Task | None) -> Setting:
    """What controls have to know, with the model's defaults for a task over the task's own."""
    usual = {"guidance_scale": task.guidance_scale} | pipe.config.defaults.get(task.name, {}) if task else {}
    return Setting(pipe, limits, usual)


def seeded(values: Values) -> dict[str, Any]:
    """The arguments that controls say, with a seed in any case."""
    arguments = arguments_of(values)
    return {**arguments, "seed": arguments.get("seed", secrets.randbelow(2**32))}


def filled(conditions: Sequence[Condition | None], missing: str) -> tuple[Condition, ...]:
    """The conditions that were given; ValueError (`missing`) if there is none."""
    given = tuple(one for one in conditions if one is not None)
    if not given:
        raise ValueError(missing)
    return given


def first_picture(conditions: Sequence[Condition]) -> Any:
    """The first picture that guides; None if there is none."""
    return next((one.value for one in conditions if one.modality == "image"), None)


def title(name: str) -> str:
    """What a task is called on its tab."""
    return name.replace("-", " ").capitalize()


def task_form(task: Task) -> Form:
    """The form of a row in the table of tasks: an input for each context, and the controls of its flow."""
    contexts = task.flow.contexts
    several = len(contexts) > 1
    handles = SEVERAL_CONTEXTS if several else ONE_CONTEXT

    def draw(setting: Setting) -> dict[str, Any]:
        drawn = {}
        with gr.Row(elem_classes="cards"):
            for name in contexts:
                with gr.Column(min_width=200):
                    drawn[name] = value_input(name, WHAT.get(name, name))
                    drawn |= draw_handles(name, name, ("weight",)) if several else {}
        return drawn | draw_settings(task.flow, setting, {name: (name, handles) for name in contexts}, drawn)

    def asks(values: Values) -> list[Ask]:
        conditions = [condition(name, name, values) for name in contexts]
        for name, one in zip(contexts, conditions, strict=True):
            if one is None:
                raise ValueError(f"give {_article(WHAT.get(name, name))} first")
        given = filled(conditions, "")
        return [Ask(task.flow.data, given, seeded(values), after=recoloured(values, first_picture(given)))]

    accepts = tuple((name, name) for name in contexts)
    return Form(
        task.name, title(task.name), task.help, task.flow.data, draw, asks, accepts, contexts, examples_of(contexts)
    )


def draw_settings(
    flow: Flow,
    setting: Setting,
    inputs: Mapping[str, tuple[str, Sequence[str]]],
    drawn: Mapping[str, Any],
    without: Sequence[str] = (),
) -> dict[str, Any]:
    """Draws the controls of a run, simple ones first, then the fold with all others and the handles of the inputs.

    Args:
        inputs: name of an input to its modality and its handles.
        drawn: the inputs, which painters are linked to.
        without: controls that are not wanted.
    """
    controls = controls_of(flow, setting, without)
    with gr.Row(elem_classes="simple"):
        made = draw_controls(controls, setting, fold=False)
    with gr.Accordion("Advanced", open=False, elem_classes="advanced"):
        with gr.Row(elem_classes="settings"):
            made |= draw_controls(controls, setting, fold=True)
        for name, (modality, handles) in inputs.items():
            foreign = () if flow.data == "image" else ("region",)  # texts have no canvas
            left = [handle for handle in handles if f"{name}.{handle}" not in drawn and handle not in foreign]
            title = f"{drawn[name].label}: what of it counts, and when"
            with gr.Accordion(title, open=False), gr.Row(elem_classes="settings"):
                made |= draw_handles(name, modality, left)
            if f"{name}.mask" in made:
                link_painter(drawn[name], made[f"{name}.mask"])
    return made


def examples_of(contexts: Sequence[str]) -> tuple[tuple[Any, ...], ...]:
    """A few values for these contexts; none where one of them is of another kind."""
    columns = {"text": EXAMPLE_TEXTS, "image": tuple(map(str, sample_pictures()))}
    if any(not columns.get(name) for name in contexts):
        return ()
    return tuple(zip(*(columns[name] for name in contexts), strict=False))[:EXAMPLE_PICTURES]


def _article(noun: str) -> str:
    return f"a {noun.lower()}"
