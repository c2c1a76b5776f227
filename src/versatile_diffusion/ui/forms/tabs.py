"""Forms: the inputs of a tab, and the runs they request. One form per task of the table, and those of the applications
(`applications.py`)."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from versatile_diffusion.flow import Condition, Flow
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.shipped import samples_of, shipped_models
from versatile_diffusion.tasks import Task
from versatile_diffusion.ui.forms.controls import (
    Setting,
    arguments_of,
    colour_match,
    condition,
    draw_controls,
    draw_handles,
    link_painter,
    widgets_of,
)
from versatile_diffusion.ui.forms.fields import size_presets
from versatile_diffusion.ui.forms.widgets import form_of, value_input
from versatile_diffusion.ui.queue.jobs import Ask, StudioLimits

if TYPE_CHECKING:
    from versatile_diffusion import VersatileDiffusionPipeline
    from versatile_diffusion.ui.page.shelf import Sheet

Values = Mapping[str, Any]
Asks = Callable[[Values], Iterable[Ask]]
Together = Callable[[Values, Sequence[Any], str], "Sheet | None"]
EXAMPLE_TEXTS = ("a red heart", "a red apple", "a penguin", "a cactus", "a strawberry")
SEED = "seed"
EXAMPLE_SEEDS: Mapping[str, tuple[int, ...]] = {
    "text-to-image": (2, 7, 2, 5, 7),
    "image-variation": (2,),
    "dual-guided": (1,),
    "disentangle": (1,),
    "inpaint": (1,),
    "joint": (2,),
}
"""Seeds of the examples, by tab, with which the emoji model gives good results; 0 where there is none. Chosen by
looking, and by the judge of `tests/data/judge`, which `tests/ui/forms/test_examples.py` asks again."""
EXAMPLE_PICTURES = 5
ONE_CONTEXT = ("mask", "focus", "avoid", "start", "end", "region")
SEVERAL_CONTEXTS = ("weight", "mask", "focus", "scale", "negative", "avoid", "start", "end", "region")


@dataclass(frozen=True)
class First:
    """A preliminary pass that fills in an input.

    Args:
        button: button label.
        asks: its runs; their first text is filled in.
        into: name of the input.
    """

    button: str
    asks: Asks
    into: str


@dataclass(frozen=True)
class Form:
    """Definition of a tab.

    Args:
        name: name of the tab, as on the command line.
        title, help: texts shown to the user.
        data: output modality.
        draw: draws all inputs; returns components by name.
        asks: converts values to runs; ValueError with a message for the user.
        accepts: inputs that take a result from another tab, as (modality, name).
        example_names: inputs that examples fill in.
        examples: values of the examples.
        button: button label.
        together: builds one sheet of all results: `(values, outputs, model)`, or None.
        first: preliminary pass, if any.
        besides: modalities of further results.
        example_labels: names of the examples, if their values are not descriptive.
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


def sample_files(modality: str) -> list[str]:
    """Return the sample files of installed models in a modality."""
    files = dict.fromkeys(file for name in shipped_models() for file in samples_of(name))
    known = ((file, MODALITIES.of_suffix(file.suffix)) for file in files)
    return [str(file) for file, found in known if found is not None and found.name == modality]


def setting_of(pipe: VersatileDiffusionPipeline, limits: StudioLimits, task: Task | None) -> Setting:
    """Return the context of controls, with the model's defaults for a task over the task's own."""
    usual = {"guidance_scale": task.guidance_scale} | pipe.config.defaults.get(task.name, {}) if task else {}
    return Setting(pipe, limits, usual)


def seed_arguments(values: Values) -> dict[str, Any]:
    """Return the arguments set by the controls, always with a seed."""
    arguments = arguments_of(values)
    return {**arguments, "seed": arguments.get("seed", secrets.randbelow(2**32))}


def require_any(conditions: Sequence[Condition | None], missing: str) -> tuple[Condition, ...]:
    """Return the conditions that are not None; ValueError (`missing`) if there are none."""
    given = tuple(one for one in conditions if one is not None)
    if not given:
        raise ValueError(missing)
    return given


def first_picture(conditions: Sequence[Condition]) -> Any:
    """Return the first image condition's value; None if there is none."""
    able = {name for name, record in MODALITIES.items() if "match_colours" in record.pair_options}
    return next((one.value for one in conditions if one.modality in able), None)


def noun_of(modality: str) -> str:
    """Return the noun of a modality; its name if unknown."""
    return MODALITIES[modality].noun if modality in MODALITIES else modality


def label_of(modality: str, flow: Flow) -> str:
    """Return the label of an input: what is typed to generate something else is a prompt."""
    prompt = form_of(modality) == "typed" and flow.data != modality
    return "Prompt" if prompt else noun_of(modality).capitalize()


def title(name: str) -> str:
    """Return a task's title."""
    return name.replace("-", " ").capitalize()


def task_form(task: Task) -> Form:
    """Return the form of a task in the table: an input per context, and the controls of its flow."""
    contexts = task.flow.contexts
    several = len(contexts) > 1
    handles = SEVERAL_CONTEXTS if several else ONE_CONTEXT

    def draw(setting: Setting) -> dict[str, Any]:
        drawn = {}
        with gr.Row(elem_classes="cards"):
            for name in contexts:
                with gr.Column(min_width=200):
                    drawn[name] = value_input(name, label_of(name, task.flow))
                    drawn |= draw_handles(name, name, ("weight",)) if several else {}
        return drawn | draw_settings(task.flow, setting, {name: (name, handles) for name in contexts}, drawn)

    def asks(values: Values) -> list[Ask]:
        conditions = [condition(name, name, values) for name in contexts]
        for name, one in zip(contexts, conditions, strict=True):
            if one is None:
                what = label_of(name, task.flow).lower()
                raise ValueError(f"add {'an' if what[0] in 'aeiou' else 'a'} {what} first")
        given = require_any(conditions, "")
        return [Ask(task.flow.data, given, seed_arguments(values), after=colour_match(values, first_picture(given)))]

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
    """Draw the controls of a run: simple ones first, then the advanced section with all others and the inputs' handles.

    Args:
        inputs: modality and handles of each input.
        drawn: the inputs, for linking painters.
        without: controls to omit.
    """
    controls = widgets_of(flow, setting, without)
    with gr.Row(elem_classes="simple"):
        made = draw_controls(controls, setting, fold=False)
    with gr.Accordion("Advanced", open=False, elem_classes="advanced"):
        with gr.Row(elem_classes="settings"):
            made |= draw_controls(controls, setting, fold=True)
            if "width" in made and "height" in made:
                size_presets(setting, flow.data, made["width"], made["height"])
        for name, (modality, handles) in inputs.items():
            foreign = () if MODALITIES[flow.data].grid else ("region",)  # no canvas
            left = [handle for handle in handles if f"{name}.{handle}" not in drawn and handle not in foreign]
            title = f"{drawn[name].label}: weight, region and schedule"
            with gr.Accordion(title, open=False), gr.Row(elem_classes="settings"):
                made |= draw_handles(name, modality, left)
            if f"{name}.mask" in made:
                link_painter(drawn[name], made[f"{name}.mask"])
    return made


def seeded_examples(form: Form) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """Return inputs and values of a form's examples, each with a seed."""
    seeds = EXAMPLE_SEEDS.get(form.name, ())
    seeds = (*seeds, *[0] * len(form.examples))
    return (*form.example_names, SEED), [(*row, seed) for row, seed in zip(form.examples, seeds, strict=False)]


def examples_of(contexts: Sequence[str]) -> tuple[tuple[Any, ...], ...]:
    """Return example values for these contexts; empty if one has no examples."""
    columns = (EXAMPLE_TEXTS if form_of(name) == "typed" else sample_files(name) for name in contexts)
    return tuple(zip(*columns, strict=False))[:EXAMPLE_PICTURES]
