"""The controls of the studio as tables: those of a run, and those of each thing that guides it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import gradio as gr

from versatile_diffusion.applications.variation import METHODS, matched
from versatile_diffusion.cli.options import BELONGS, NAMED_PARTS, numbers
from versatile_diffusion.flow import Condition, Flow
from versatile_diffusion.sampling.guidance import MIXINGS, WHOLE
from versatile_diffusion.sampling.schedulers import SCHEDULERS
from versatile_diffusion.tasks import NULLS
from versatile_diffusion.ui.jobs import Limits
from versatile_diffusion.ui.uploads import canvas, read_mask, read_picture
from versatile_diffusion.ui.widgets import painter, picture

if TYPE_CHECKING:
    from versatile_diffusion import VersatileDiffusionPipeline
    from versatile_diffusion.sampling.output import Output

PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}  # of every event
NEW = -1  # a seed that is drawn afresh; an empty number is not possible, since browsers make it 0
OWN = "the model's own"  # the choice that leaves a setting to the model
EVERYWHERE = "everywhere"
AS_THEY_ARE = "as they come"


@dataclass(frozen=True)
class Setting:
    """What a control has to know: the model, what is allowed, and the defaults of the flow."""

    pipe: VersatileDiffusionPipeline
    limits: Limits
    defaults: Mapping[str, Any]


@dataclass(frozen=True)
class Control:
    """A control of a run.

    Args:
        make: draws it.
        argument: of `generate` that it sets; None where `arguments_of` or `recoloured` see to it.
        read: what is shown to what is handed on; None leaves it out.
        fold: whether it stands in the advanced fold.
        shown: whether this model and flow have a use for it.
    """

    make: Callable[[Setting], Any]
    argument: str | None
    read: Callable[[Any], Any] = lambda value: value
    fold: bool = True
    shown: Callable[[Setting], bool] = lambda setting: True


def _whole(value: Any) -> int | None:
    return None if value is None else int(value)


def _some(value: Any) -> int | None:
    return int(value) if value else None


def _chosen(value: Any) -> Any:
    return None if value in (None, "", OWN) else value


def _filled(value: Any) -> Any:
    return value if isinstance(value, str) and value.strip() else None


def _plan(value: Any) -> list[list[int]] | None:
    """A layer plan as people write it, a line for each step."""
    try:
        rows = [[int(number) for number in line.split()] for line in str(value or "").splitlines()]
    except ValueError as error:
        raise ValueError("the plan of layers has a line of whole numbers for each step, or one for all") from error
    return [row for row in rows if row] or None


def _region(value: Any) -> Any:
    """A part of the canvas by its name, or a box of numbers; no path is ever opened."""
    if value in (None, "", EVERYWHERE):
        return None
    return NAMED_PARTS.get(value) or numbers(str(value), 4, "the place where it acts", "left:top:right:bottom")


def _slider(label: str, least: float, most: float, value: float, step: float, info: str | None = None) -> gr.Slider:
    return gr.Slider(least, most, value, step=step, label=label, info=info)


def _default(setting: Setting, name: str, usual: Any) -> Any:
    return setting.defaults.get(name, usual)


CONTROLS: Mapping[str, Control] = {
    "count": Control(
        lambda s: _slider("How many", 1, s.limits.items, min(4, s.limits.items), 1), "num_outputs", _whole, fold=False
    ),
    "style": Control(
        lambda s: gr.Dropdown([OWN, *s.pipe.config.styles], value=OWN, label="Style"),
        "style",
        _chosen,
        fold=False,
        shown=lambda s: bool(s.pipe.config.styles),
    ),
    "seed": Control(
        lambda s: gr.Number(NEW, label="Seed", info=f"The same gives the same again; {NEW}: new.", precision=0),
        "seed",
        lambda value: None if value is None or value < 0 else int(value),
    ),
    "steps": Control(
        lambda s: _slider("Steps", 1, s.limits.steps, _default(s, "num_inference_steps", 50), 1, "More is finer."),
        "num_inference_steps",
        _whole,
    ),
    "guidance_scale": Control(
        lambda s: _slider(
            "Guidance", 0, 20, _default(s, "guidance_scale", 7.5), 0.5, "How closely to follow what guides; 1 is off."
        ),
        "guidance_scale",
    ),
    "scheduler": Control(lambda s: gr.Dropdown([OWN, *SCHEDULERS], value=OWN, label="Scheduler"), "scheduler", _chosen),
    "negative_prompt": Control(
        lambda s: gr.Textbox(label="Keep away from", max_length=500), "negative_prompt", _filled
    ),
    "mixing": Control(
        lambda s: gr.Radio(list(MIXINGS), value="attention", label="Mixing level", elem_classes="wide"),
        "mixing",
        fold=False,
    ),
    "layer_seed": Control(
        lambda s: gr.Number(0, label="Seed of layer mixing", precision=0, minimum=0), "layer_seed", _whole
    ),
    "layer_plan": Control(
        lambda s: gr.Textbox(
            label="Plan of layer mixing",
            info="Who guides each block: numbers from 0, a line for each step or one for all. Empty: drawn.",
            lines=2,
            max_length=20_000,
        ),
        "layer_plan",
        _plan,
    ),
    "guidance_rescale": Control(
        lambda s: _slider("Against burnt colours", 0, 1, 0, 0.05, "For a high guidance; try 0.7."), "guidance_rescale"
    ),
    "guidance_from": Control(lambda s: _slider("Guidance from", 0, 0.95, 0, 0.05, "0 is noise, 1 is done."), None),
    "guidance_until": Control(lambda s: _slider("Guidance until", 0.05, 1, 1, 0.05, "Less of it is faster."), None),
    "eta": Control(lambda s: _slider("Noise of each step", 0, 1, 0, 0.05, "With ddim: 1 is as much as DDPM."), "eta"),
    "match_colours": Control(
        lambda s: gr.Dropdown([AS_THEY_ARE, *METHODS], value=AS_THEY_ARE, label="Colours of the picture"), None
    ),
    "width": Control(
        lambda s: gr.Number(0, label="Width", info="Pixels; 0: the model's own.", precision=0), "width", _some
    ),
    "height": Control(
        lambda s: gr.Number(0, label="Height", info="Pixels; 0: the model's own.", precision=0),
        "height",
        _some,
    ),
    "temperature": Control(
        lambda s: _slider("Temperature", 0, 2, 1, 0.05, "0 takes the likeliest word always."), "temperature"
    ),
    "top_k": Control(lambda s: gr.Number(0, label="Likeliest k words", info="0: all.", precision=0), "top_k", _whole),
    "top_p": Control(lambda s: _slider("Likeliest share of words", 0, 1, 1, 0.05), "top_p"),
    "max_length": Control(
        lambda s: gr.Number(0, label="Most word pieces", info="0: the model's own.", precision=0), "max_length", _some
    ),
    "candidates": Control(
        lambda s: _slider("Tries for each", 1, 8, 1, 1, "The one that agrees best is kept."),
        "candidates",
        lambda value: int(value) if value and value > 1 else None,
    ),
    "null": Control(
        lambda s: gr.Dropdown([OWN, *NULLS], value=OWN, label="No guidance means", info="As in the release of."),
        "null",
        _chosen,
    ),
    "rank": Control(
        lambda s: gr.Checkbox(False, label="Best first", info="By agreement with what guides."),
        "rank",
        lambda value: True if value else None,
    ),
    "start": Control(
        lambda s: picture("Begin from a picture", height=150),
        "start",
        read_picture,
    ),
    "fidelity": Control(
        lambda s: _slider("How much of it stays", 0.05, 0.95, 0.5, 0.05, "Of the picture to begin from."), "fidelity"
    ),
}
"""Every control of a run, by the name of its option on the command line."""


def controls_of(flow: Flow, setting: Setting, without: Sequence[str] = ()) -> dict[str, Control]:
    """Those that belong to a flow and are of use with this model."""
    foreign = frozenset(without).union(*(names for has, names in BELONGS.items() if not has(flow)))
    return {name: c for name, c in CONTROLS.items() if name not in foreign and c.shown(setting)}


def arguments_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `generate` for what the controls show."""
    read = ((c.argument, c.read(values[name])) for name, c in CONTROLS.items() if name in values and c.argument)
    arguments: dict[str, Any] = {argument: value for argument, value in read if argument and value is not None}
    interval = values.get("guidance_from") or WHOLE[0], values.get("guidance_until") or WHOLE[1]
    if interval != WHOLE:
        arguments["guidance_interval"] = interval
    if "start" not in arguments:
        arguments.pop("fidelity", None)
    return arguments


def recoloured(values: Mapping[str, Any], reference: Any) -> Callable[[Output], Output] | None:
    """What gives an output the colours of a picture, where the controls say so and there is one."""
    method = str(values.get("match_colours"))
    if method not in METHODS or reference is None:
        return None
    return lambda output: matched(output, reference, method)


@dataclass(frozen=True)
class Handle:
    """A control of one thing that guides: a field of its Condition.

    Args:
        make: draws it.
        read: what is shown to what the field gets.
        field: of the Condition.
        belongs: to which modalities; empty for all.
    """

    make: Callable[[], Any]
    field: str
    read: Callable[[Any], Any] = lambda value: value
    belongs: frozenset[str] = frozenset()


PICTURES, TEXTS = frozenset({"image"}), frozenset({"text"})
HANDLES: Mapping[str, Handle] = {
    "weight": Handle(lambda: _slider("Weight", 0, 1, 0.5, 0.05), "weight"),
    "focus": Handle(
        lambda: _slider("Focus", 0, 1, 0.5, 0.05, "0: what is shown, 1: its style"),
        "focus",
        lambda value: None if value in (None, 0.5) else float(value),
        PICTURES,
    ),
    "mask": Handle(lambda: painter("Paint what counts"), "mask", read_mask, PICTURES),
    "scale": Handle(
        lambda: gr.Number(0, label="Its own guidance", info="0: as all."), "guidance_scale", lambda value: value or None
    ),
    "negative": Handle(lambda: gr.Textbox(label="Its own negative", max_length=500), "negative", _filled, TEXTS),
    "avoid": Handle(lambda: picture("Keep away from", height=150), "negative", read_picture, PICTURES),
    "start": Handle(lambda: _slider("Acts from", 0, 0.95, 0, 0.05, "0 is noise, 1 is done."), "start"),
    "end": Handle(lambda: _slider("Acts until", 0.05, 1, 1, 0.05), "end"),
    "region": Handle(
        lambda: gr.Dropdown(
            [EVERYWHERE, *NAMED_PARTS],
            value=EVERYWHERE,
            label="Acts where",
            info="Or a box: left:top:right:bottom, 0 to 1.",
            allow_custom_value=True,
        ),
        "region",
        _region,
    ),
}
"""Every control of a condition, by its name on the command line."""

READERS: Mapping[str, Callable[[Any], Any]] = {"text": _filled, "image": read_picture}


def handles_of(modality: str, names: Sequence[str]) -> dict[str, Handle]:
    """Those of the named handles that a modality has."""
    return {n: HANDLES[n] for n in names if not HANDLES[n].belongs or modality in HANDLES[n].belongs}


def draw_handles(name: str, modality: str, handles: Sequence[str]) -> dict[str, Any]:
    """Draws handles of the input `name`; components by `name.handle`."""
    return {f"{name}.{handle}": record.make() for handle, record in handles_of(modality, handles).items()}


def draw_controls(controls: Mapping[str, Control], setting: Setting, fold: bool) -> dict[str, Any]:
    """Draws the controls of a run that stand in the fold, or those that do not; components by name."""
    return {name: control.make(setting) for name, control in controls.items() if control.fold == fold}


def link_painter(picture: Any, painter: Any, fit: Callable[[Any], Any] = lambda picture: picture) -> None:
    """Shows the picture of an input, `fit` as it has to be, under a painter."""

    def shown(path: str | None, painted: Any) -> Any:
        try:
            given = read_picture(path)
        except ValueError:
            return None
        fresh = canvas(None if given is None else fit(given))
        same = isinstance(painted, Mapping) and fresh and painted.get("picture") == fresh["picture"]
        return gr.skip() if same else fresh  # what an example or a file brought along stays

    picture.change(shown, [picture, painter], painter, queue=False, **PRIVATE)


def condition(name: str, modality: str, values: Mapping[str, Any], **fixed: Any) -> Condition | None:
    """The condition that an input and its handles say; None if nothing is given.

    Raises:
        ValueError: what is given cannot be read.
    """
    value = READERS.get(modality, lambda given: given)(values.get(name))
    if value is None:
        return None
    own = {
        HANDLES[handle].field: HANDLES[handle].read(values[f"{name}.{handle}"])
        for handle in HANDLES
        if values.get(f"{name}.{handle}") is not None
    }
    return Condition(modality, value, **{**own, **fixed})
