"""Widget tables of the studio: controls of a run, and controls of each condition."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from versatile_diffusion.applications import colours
from versatile_diffusion.applications.variation import METHODS
from versatile_diffusion.cli.options import numbers
from versatile_diffusion.controls import CONDITION, PARTS, REQUEST, RESULT, RUN, WHOLE, Control
from versatile_diffusion.flow import Condition, Flow
from versatile_diffusion.modalities import MODALITIES, Modality
from versatile_diffusion.modalities.modality import UPLOADED
from versatile_diffusion.ui.forms.fields import DENOISING, as_fidelity, denoising_slider, seed_box
from versatile_diffusion.ui.forms.widgets import PRIVATE as PRIVATE
from versatile_diffusion.ui.forms.widgets import form_of, painter, picture
from versatile_diffusion.ui.page.uploads import canvas, read_mask, read_picture
from versatile_diffusion.ui.queue.jobs import StudioLimits

if TYPE_CHECKING:
    from versatile_diffusion import VersatileDiffusionPipeline
    from versatile_diffusion.pipeline.output import Output

MOST_SEED = 2**53
OWN = "model default"
EVERYWHERE = "everywhere"
AS_THEY_ARE = "none"


@dataclass(frozen=True)
class Setting:
    """Context of a control.

    Args:
        pipe, limits: the model, and what may be asked of it.
        defaults: of the flow.
        last_seed: `(session) -> seed` of the latest result of the tab; None if there is none.
    """

    pipe: VersatileDiffusionPipeline
    limits: StudioLimits
    defaults: Mapping[str, Any]
    last_seed: Callable[[str], int | None] = lambda session: None


@dataclass(frozen=True)
class Widget:
    """How an option is displayed and read.

    Args:
        control: the option.
        make: builds the component; by default from type and range.
        read: converts the component's value to the argument; None omits it.
        argument: argument of `generate` to set; None if `arguments_of` or `colour_match` handles it.
        fold: whether it is in the advanced section.
        shown: whether it applies to this model.
    """

    control: Control
    make: Callable[[Setting], Any]
    read: Callable[[Any], Any]
    argument: str | None
    fold: bool = True
    shown: Callable[[Setting], bool] = lambda setting: True


def _seed(value: Any) -> int | None:
    if value is not None and value > MOST_SEED:
        raise ValueError(f"the seed is {value}; it must be at most {MOST_SEED}, since a browser rounds numbers above")
    return None if value is None or value < 0 else int(value)


def _whole(value: Any) -> int | None:
    return None if value is None else int(value)


def _some(value: Any) -> int | None:
    return int(value) if value else None


def _choice(value: Any) -> Any:
    return None if value in (None, "", OWN) else value


def _text(value: Any) -> Any:
    return value if isinstance(value, str) and value.strip() else None


def _plan(value: Any) -> list[list[int]] | None:
    """Parse a layer plan, one line per step."""
    try:
        rows = [[int(number) for number in line.split()] for line in str(value or "").splitlines()]
    except ValueError as error:
        raise ValueError("a layer plan has one line of integers per step, or one for all") from error
    return [row for row in rows if row] or None


def _region(value: Any) -> Any:
    """Parse a part of the canvas: a name, or a box of numbers; no path is ever opened."""
    if value in (None, "", EVERYWHERE):
        return None
    return PARTS.get(value) or numbers(str(value), 4, "the region", "left:top:right:bottom")


def _slider(
    control: Control, most: float | None = None, value: float | None = None, minimum: float | None = None
) -> gr.Slider:
    ends = control.least if minimum is None else minimum, control.most if most is None else most
    shown = control.default if value is None else value
    return gr.Slider(*ends, shown, step=control.step, label=control.label, info=control.help)


def _component(control: Control, setting: Setting) -> Any:
    """Build the component of an option from its type and range, with the flow's default."""
    usual = setting.defaults.get(control.name, control.default)
    label, info = control.label, control.help
    if control.choices:
        return gr.Dropdown([OWN, *control.choices], value=OWN, label=label, info=info)
    if control.type is bool:
        return gr.Checkbox(False, label=label, info=info)
    if control.is_number and control.step is not None:
        return _slider(control, SLIDER_ENDS.get(control.name, control.most), UNSAID.get(control.name, usual))
    if control.is_number:
        return gr.Number(usual or 0, label=label, info=info, precision=0, minimum=0)
    return gr.Textbox(label=label, info=info, max_length=500)


def _read(control: Control) -> Callable[[Any], Any]:
    """Return the converter from component value to argument."""
    if control.choices:
        return _choice
    if control.type is bool:
        return lambda value: True if value else None
    if control.whole:
        return _some if control.default is None and control.name != "top_k" else _whole
    return _text if control.type is str else lambda value: value


SLIDER_ENDS = {"guidance_scale": 20.0, "temperature": 2.0, "candidates": 8}
"""Slider maxima below the allowed maximum."""
UNSAID = {"temperature": 1.0, "top_p": 1.0}
"""Slider values that stand for the codec's own default."""
SIMPLE = ("num_outputs", "style", "seed", "mixing")
"""Options outside the advanced section."""
INTERVAL = REQUEST["guidance_interval"]
MAKERS: Mapping[str, Callable[[Control, Setting], Any]] = {
    "num_outputs": lambda c, s: _slider(
        c, s.limits.items, 1 if s.defaults.get("candidates") else min(4, s.limits.items)
    ),
    "num_inference_steps": lambda c, s: _slider(c, s.limits.steps, s.defaults.get(c.name, c.default)),
    "style": lambda c, s: gr.Dropdown([OWN, *s.pipe.config.styles], value=OWN, label=c.label),
    "seed": lambda c, s: seed_box(c.label, s),
    "mixing": lambda c, s: gr.Radio(list(c.choices), value=c.default, label=c.label, elem_classes="wide"),
    "layer_plan": lambda c, s: gr.Textbox(
        label=c.label,
        info="Input index of each block, from 0; one line per step, or one for all. Empty: random.",
        lines=2,
        max_length=20_000,
    ),
    "start": lambda c, s: picture(c.label, height=150),
    "fidelity": lambda c, s: denoising_slider(0.05, 0.5),
    "match_colours": lambda c, s: gr.Dropdown([AS_THEY_ARE, *c.choices], value=AS_THEY_ARE, label=c.label),
}
"""Options with a component of their own."""
READERS_OF: Mapping[str, Callable[[Any], Any]] = {
    "style": _choice,
    "seed": _seed,
    "mixing": lambda value: value,
    "layer_plan": _plan,
    "start": read_picture,
    "fidelity": lambda value: as_fidelity(value),
    "candidates": lambda value: int(value) if value else None,
}


def _widget(control: Control) -> Widget:
    return Widget(
        control,
        partial(MAKERS.get(control.name, _component), control),
        READERS_OF.get(control.name, _read(control)),
        None if control.name in RESULT else control.name,
        control.name not in SIMPLE,
        (lambda setting: bool(setting.pipe.config.styles)) if control.name == "style" else (lambda setting: True),
    )


def _end(name: str, label: str, most: float, value: float, least: float = 0) -> Widget:
    """Build a slider for one end of the guidance interval."""
    info = "0 = noise, 1 = done."
    return Widget(
        INTERVAL, lambda s: gr.Slider(least, most, value, step=0.05, label=label, info=info), lambda v: v, None
    )


ORDER = (
    *("num_outputs", "style", "mixing", "seed"),
    *("num_inference_steps", "guidance_scale", "scheduler", "negative_prompt"),
    *("layer_seed", "layer_plan", "guidance_rescale", "guidance_interval", "fast", "eta", "match_colours"),
    *("temperature", "top_k", "top_p", "max_length", "candidates", "null", "rank"),
    *("start", "fidelity", "width", "height"),
)
"""Options in page order; `repaint` has its own tab."""
ENDS = {
    "guidance_from": _end("guidance_from", "Guidance from", 0.95, WHOLE[0]),
    "guidance_until": _end("guidance_until", "Guidance until", 1, WHOLE[1], 0.05),
}


SHOWN_AS = {"fidelity": DENOISING}
"""Options that are displayed as something else, and converted."""


def _widgets() -> Iterator[tuple[str, Widget]]:
    known = {**RUN, **REQUEST, **RESULT}
    for name in ORDER:
        if known[name] is INTERVAL:
            yield from ENDS.items()
        else:
            yield SHOWN_AS.get(name, known[name].option), _widget(known[name])


WIDGETS: Mapping[str, Widget] = dict(_widgets())
"""Every control of a run, by command-line name."""


def widgets_of(flow: Flow, setting: Setting, without: Sequence[str] = ()) -> dict[str, Widget]:
    """Return the controls that belong to a flow and apply to this model."""
    return {
        name: widget
        for name, widget in WIDGETS.items()
        if name not in without and widget.control.belongs(flow) and widget.shown(setting)
    }


def arguments_of(values: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the controls' values to arguments of `generate`."""
    read = ((c.argument, c.read(values[name])) for name, c in WIDGETS.items() if name in values and c.argument)
    arguments: dict[str, Any] = {argument: value for argument, value in read if argument and value is not None}
    interval = values.get("guidance_from") or WHOLE[0], values.get("guidance_until") or WHOLE[1]
    if interval != WHOLE:
        arguments["guidance_interval"] = interval
    if "start" not in arguments:
        arguments.pop("fidelity", None)
    return arguments


def colour_match(values: Mapping[str, Any], reference: Any) -> Callable[[Output], Output] | None:
    """Return the colour matching to apply to an output; None if off or without an image."""
    method = str(values.get("match_colours"))
    if method not in METHODS or reference is None:
        return None
    return lambda output: colours.match(output, reference, method)


@dataclass(frozen=True)
class Handle:
    """A control of one condition: a field of its Condition.

    Args:
        make: builds the component.
        read: converts the component's value to the field.
        field: field of the Condition.
        belongs: predicate on the modality.
    """

    make: Callable[[], Any]
    field: str
    read: Callable[[Any], Any] = lambda value: value
    belongs: Callable[[Modality], bool] = lambda modality: True


def _has(option: str) -> Callable[[Modality], bool]:
    """Return a predicate: the modality has this condition option."""
    return lambda modality: option in modality.context_options


def _of_form(form: str) -> Callable[[Modality], bool]:
    """Return a predicate: values of the modality are entered in this form."""
    return lambda modality: modality.form == form


HANDLES: Mapping[str, Handle] = {
    "weight": Handle(lambda: _slider(CONDITION["weight"], 1, 0.5), "weight"),
    "focus": Handle(
        lambda: _slider(CONDITION["focus"], 1, 0.5),
        "focus",
        lambda value: None if value in (None, 0.5) else float(value),
        _has("focus"),
    ),
    "mask": Handle(lambda: painter(CONDITION["mask"].label), "mask", read_mask, _has("mask")),
    "scale": Handle(
        lambda: gr.Number(0, label=CONDITION["guidance_scale"].label, info="0: global."),
        "guidance_scale",
        lambda value: value or None,
    ),
    "negative": Handle(
        lambda: gr.Textbox(label=CONDITION["negative"].label, max_length=500),
        "negative",
        _text,
        _of_form("typed"),
    ),
    "avoid": Handle(
        lambda: picture(CONDITION["negative"].label, height=150), "negative", read_picture, _of_form("painted")
    ),
    "start": Handle(lambda: _slider(CONDITION["start"], 0.95), "start"),
    "end": Handle(lambda: _slider(CONDITION["end"], minimum=0.05), "end"),
    "region": Handle(
        lambda: gr.Dropdown(
            [EVERYWHERE, *PARTS],
            value=EVERYWHERE,
            label=CONDITION["region"].label,
            info="Or a box, left:top:right:bottom, from 0 to 1.",
            allow_custom_value=True,
        ),
        "region",
        _region,
    ),
}
"""Every control of a condition, by command-line name."""

READERS: Mapping[str, Callable[[Any], Any]] = {
    "typed": _text,
    "painted": read_picture,
    "recorded": lambda file: file,
    "file": lambda file: file,
}
"""Converters of an input's value, by the modality's input form."""


def _read_upload(modality: str, file: str) -> Any:
    """Read an uploaded file, so that neither records nor messages have its path here."""
    record = MODALITIES.get(modality)
    if record is None or record.from_stream is None:
        return file
    with open(file, "rb") as stream:
        return record.from_stream(stream, Path(file).name)[0]


def handles_of(modality: str, names: Sequence[str]) -> dict[str, Handle]:
    """Return the named handles that a modality supports."""
    record = MODALITIES.get(modality)
    return {n: HANDLES[n] for n in names if record is None or HANDLES[n].belongs(record)}


def draw_handles(name: str, modality: str, handles: Sequence[str]) -> dict[str, Any]:
    """Draw the handles of input `name`; keys are `name.handle`."""
    return {f"{name}.{handle}": record.make() for handle, record in handles_of(modality, handles).items()}


def draw_controls(controls: Mapping[str, Widget], setting: Setting, fold: bool) -> dict[str, Any]:
    """Draw the controls inside or outside the advanced section, by name."""
    return {name: control.make(setting) for name, control in controls.items() if control.fold == fold}


def link_painter(picture: Any, painter: Any, fit: Callable[[Any], Any] = lambda picture: picture) -> None:
    """Show the image of an input, after `fit`, under a painter."""

    def shown(path: str | None, painted: Any) -> Any:
        try:
            given = read_picture(path)
        except ValueError:
            return None
        fresh = canvas(None if given is None else fit(given))
        same = isinstance(painted, Mapping) and fresh and painted.get("picture") == fresh["picture"]
        return gr.skip() if same else fresh  # keep the mask of an example or a restored file

    picture.change(shown, [picture, painter], painter, queue=False, **PRIVATE)


def condition(name: str, modality: str, values: Mapping[str, Any], **fixed: Any) -> Condition | None:
    """Build the condition of an input and its handles; None if the input is empty.

    Raises:
        ValueError: unreadable input.
    """
    value = READERS[form_of(modality)](values.get(name))
    if value is None:
        return None
    if form_of(modality) in UPLOADED:
        value = _read_upload(modality, value)
    own = {
        HANDLES[handle].field: HANDLES[handle].read(values[f"{name}.{handle}"])
        for handle in HANDLES
        if values.get(f"{name}.{handle}") is not None
    }
    return Condition(modality, value, **{**own, **fixed})
