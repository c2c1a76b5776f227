"""Forms of the applications: blend, disentangle, edit, inpaint, sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np
import torch
from PIL import Image, ImageDraw

from versatile_diffusion.applications.disentangle import levels, restyle
from versatile_diffusion.applications.round_trip import IMAGE_WEIGHT, edit
from versatile_diffusion.cli import sweep
from versatile_diffusion.flow import Condition, Flow
from versatile_diffusion.sampling.output import Output
from versatile_diffusion.tasks import TASKS
from versatile_diffusion.ui.controls import PRIVATE, Setting, condition, draw_handles, link_painter
from versatile_diffusion.ui.forms import (
    SEVERAL_CONTEXTS,
    First,
    Form,
    Values,
    draw_settings,
    filled,
    sample_pictures,
    seeded,
)
from versatile_diffusion.ui.jobs import Ask
from versatile_diffusion.ui.uploads import canvas, read_mask, read_picture
from versatile_diffusion.ui.widgets import painter, picture

if TYPE_CHECKING:
    from versatile_diffusion import VersatileDiffusionPipeline

FROM_BOTH, FROM_PICTURE = Flow("image", ("text", "image")), Flow("image", ("image",))
PICTURES = tuple(f"picture-{k}" for k in range(1, 5))
TEXTS = ("text-1", "text-2")
RECORD = "cells"


def application_forms(pipe: VersatileDiffusionPipeline) -> list[Form]:
    """Those that the model can do."""
    samples = [str(file) for file in sample_pictures()]
    makers = {
        blend_form: FROM_BOTH,
        disentangle_form: FROM_PICTURE,
        edit_form: FROM_BOTH,
        inpaint_form: FROM_BOTH,
        sweep_form: FROM_BOTH,
    }
    return [make(pipe, samples) for make, flow in makers.items() if pipe.can(flow)]


def blend_form(pipe: VersatileDiffusionPipeline, samples: Sequence[str]) -> Form:
    """Up to four pictures and two texts, each with its own share and controls."""
    inputs = {**dict.fromkeys(PICTURES, "image"), **dict.fromkeys(TEXTS, "text")}

    def draw(setting: Setting) -> dict[str, Any]:
        drawn: dict[str, Any] = {}
        for pair in (PICTURES[:2], PICTURES[2:]):
            with gr.Row(elem_classes="cards"):
                for name in pair:
                    with gr.Column(min_width=150):
                        drawn[name] = picture(name.replace("-", " ").capitalize(), height=150)
                        drawn |= draw_handles(name, "image", ("weight", "focus"))
        for k, name in enumerate(TEXTS, 1):
            with gr.Row():
                drawn[name] = gr.Textbox(label=f"Text {k}", max_length=500, scale=2, min_width=160)
                drawn |= draw_handles(name, "text", ("weight",))
        handles = {name: (kind, SEVERAL_CONTEXTS) for name, kind in inputs.items()}
        return drawn | draw_settings(FROM_BOTH, setting, handles, drawn)

    def asks(values: Values) -> list[Ask]:
        given = [condition(name, kind, values) for name, kind in inputs.items()]
        conditions = filled(given, "add a picture or a text first")
        return [Ask("image", conditions, seeded(values))]

    names = ("picture-1", "picture-1.weight", "picture-2", "picture-2.weight", "text-1", "text-1.weight")
    examples = [
        (samples[k], 0.6, samples[k - 1], 0.4, text, weight)
        for k, text, weight in ((0, "", 0.5), (1, "a red heart", 0.3), (2, "a 3d icon", 0.3))
        if len(samples) > 2
    ]
    return Form(
        "blend",
        "Blend",
        "Up to four pictures and two texts together, each with its share. Leave empty what you do not need.",
        "image",
        draw,
        asks,
        tuple((kind, name) for name, kind in inputs.items()),
        names,
        tuple(examples),
        "Blend",
    )


DIAL, LEVELS, STYLE_OF = "one place on the dial", "five levels, one of each", "style of another picture"


def disentangle_form(pipe: VersatileDiffusionPipeline, samples: Sequence[str]) -> Form:
    """What a picture shows and its style, apart from each other."""

    def draw(setting: Setting) -> dict[str, Any]:
        drawn: dict[str, Any] = {}
        with gr.Row(elem_classes="cards"):
            with gr.Column(min_width=180):
                drawn["image"] = picture("Picture")
            with gr.Column(min_width=180, visible=False) as other:
                drawn["style-of"] = picture("Its style is taken")
        drawn["mode"] = gr.Radio([DIAL, LEVELS, STYLE_OF], value=DIAL, label="What to make")
        with gr.Column() as dial:
            info = "0 keeps what is shown, 0.5 all, 1 the style."
            drawn["dial"] = gr.Slider(0, 1, 0.2, step=0.05, label="Dial", info=info)
        with gr.Column(visible=False) as strength:
            info = "How many of its strongest parts are its style."
            drawn["components"] = gr.Slider(1, 10, 2, step=1, label="Components", info=info)

        def turned(mode: str) -> list[Any]:
            return [gr.update(visible=mode == DIAL), *[gr.update(visible=mode == STYLE_OF)] * 2]

        drawn["mode"].change(turned, drawn["mode"], [dial, strength, other], queue=False, **PRIVATE)
        return drawn | draw_settings(FROM_PICTURE, setting, {"image": ("image", ("mask", "start", "end"))}, drawn)

    def asks(values: Values) -> list[Ask]:
        image = condition("image", "image", values)
        if image is None:
            raise ValueError("give a picture first")
        arguments = seeded(values)
        if values["mode"] == DIAL:
            return [Ask("image", (replace(image, focus=float(values["dial"])),), arguments)]
        if values["mode"] == LEVELS:
            one = {**arguments, "num_outputs": 1}
            strip = [(replace(image, focus=focus), f"level {focus.level:+g}") for focus in levels()]
            return [Ask("image", (at,), one, label=label) for at, label in strip]
        style = read_picture(values["style-of"])
        if style is None:
            raise ValueError("give the picture whose style is taken, too")

        def call(pipe: VersatileDiffusionPipeline, **own: Any) -> Output:
            return restyle(pipe, style, image.value, components=int(values["components"]), **own)

        return [Ask("image", (image,), arguments, call)]

    return Form(
        "disentangle",
        "Disentangle",
        "What a picture shows and its style, apart: turn the dial, see five levels, or take the style of another.",
        "image",
        draw,
        asks,
        (("image", "image"), ("image", "style-of")),
        ("image", "style-of", "mode"),
        tuple(
            (one, samples[k - 1], mode)
            for (k, one), mode in zip(enumerate(samples), (LEVELS, DIAL, STYLE_OF), strict=False)
        ),
        together=_strip,
    )


def _strip(values: Values, outputs: Sequence[Output], model: str) -> tuple[Any, dict[str, Any]] | None:
    """The levels side by side, where these are levels."""
    if values["mode"] != LEVELS:
        return None
    return sheet(outputs, [sweep.Axis("level", tuple(focus.level for focus in levels()))], model)


def edit_form(pipe: VersatileDiffusionPipeline, samples: Sequence[str]) -> Form:
    """A picture changed by words."""

    def draw(setting: Setting) -> dict[str, Any]:
        drawn: dict[str, Any] = {"image": picture("Picture")}
        info = "What the picture shows. Have it written, then change it."
        drawn["caption"] = gr.Textbox(label="Caption", info=info, max_length=500)
        info = "Its share; the caption has the rest."
        drawn["keep"] = gr.Slider(0, 1, IMAGE_WEIGHT, step=0.01, label="Keep of the picture", info=info)
        with gr.Accordion("Or without a caption: take out and add", open=False), gr.Row():
            drawn["remove"] = gr.Textbox(label="Take out", max_length=200, min_width=120)
            drawn["add"] = gr.Textbox(label="Add", max_length=200, min_width=120)
        return drawn | draw_settings(FROM_BOTH, setting, {}, drawn, without=("negative_prompt", "layer_seed", "mixing"))

    def asks(values: Values) -> list[Ask]:
        image = _needed(values, "image")
        words = {name: values[name].strip() for name in ("remove", "add") if (values[name] or "").strip()}
        if not words and not (values["caption"] or "").strip():
            raise ValueError("write a caption (or have it written), or say what to take out or to add")
        words = words or {"caption": values["caption"].strip()}

        def call(pipe: VersatileDiffusionPipeline, **own: Any) -> Output:
            captioning = {"callback_on_step_end": own["callback_on_step_end"]}
            return edit(pipe, image, **words, image_weight=float(values["keep"]), captioning=captioning, **own).picture

        return [Ask("image", (Condition("image", image),), seeded(values), call)]

    def look(values: Values) -> list[Ask]:
        image = _needed(values, "image")
        return [Ask("text", (Condition("image", image),), {"seed": 0, "temperature": 0.0})]

    first = First("Write its caption", look, "caption") if pipe.can(Flow("text", ("image",))) else None
    captions = ("a red car", "a green cactus with a flower", "a pink ice cream")
    return Form(
        "edit",
        "Edit",
        "A picture changed through its caption: have it written, change its words, make the picture again.",
        "image",
        draw,
        asks,
        (("image", "image"), ("text", "caption")),
        ("image", "caption"),
        tuple(zip(samples, captions, strict=False)),
        first=first,
    )


def inpaint_form(pipe: VersatileDiffusionPipeline, samples: Sequence[str]) -> Form:
    """A part of a picture made anew."""
    codec = pipe.bank.codecs["image"]

    def draw(setting: Setting) -> dict[str, Any]:
        drawn: dict[str, Any] = {}
        with gr.Row(elem_classes="cards"):
            with gr.Column(min_width=180):
                drawn["image"] = picture("Picture")
            with gr.Column(min_width=180):
                drawn["image.mask"] = painter("Paint what is made anew")
        drawn["text"] = gr.Textbox(label="What goes there", info="Empty: more of the picture itself.", max_length=500)
        info = "How much of what was there still shapes it."
        drawn["fidelity"] = gr.Slider(0, 0.95, 0, step=0.05, label="Keep of what was there", info=info)
        link_painter(drawn["image"], drawn["image.mask"], codec.fit)
        return drawn | draw_settings(FROM_BOTH, setting, {}, drawn, without=("mixing", "layer_seed", "width", "height"))

    def asks(values: Values) -> list[Ask]:
        image, mask = _needed(values, "image"), read_mask(values["image.mask"])
        if mask is None:
            raise ValueError("paint over the part that is to be made anew")
        arguments = {**seeded(values), "start": codec.fit(image), "repaint": np.asarray(mask, np.float32) / 255}
        if values["fidelity"]:
            arguments["fidelity"] = float(values["fidelity"])
        text = condition("text", "text", {"text": values["text"]})
        if text is None:
            arguments = {n: v for n, v in arguments.items() if n not in ("style", "negative_prompt")}
        return [Ask("image", (text or Condition("image", image),), arguments)]

    return Form(
        "inpaint",
        "Inpaint",
        "Paint over a part of a picture; only that part is made anew.",
        "image",
        draw,
        asks,
        (("image", "image"), ("text", "text")),
        ("image", "image.mask", "text"),
        tuple(
            (sample, _half_painted(codec.fit(Image.open(sample).convert("RGB"))), text)
            for sample, text in zip(samples, ("a red heart", "a green leaf", "a yellow star"), strict=False)
        ),
    )


AXES: Mapping[str, str] = {
    "guidance_scale": "1, 3, 5, 8",
    "steps": "2, 5, 10, 25",
    "seed": "0, 1, 2, 3",
    "style": "",
    "scheduler": "ddim, dpm++, unipc",
    "image.focus": "0, 0.25, 0.5, 0.75, 1",
    "text.weight": "0.2, 0.5, 0.8",
    "image.weight": "0.2, 0.5, 0.8",
    "mixing": "attention, layer, model",
}
"""Settings to go over, and values to begin with."""
NOTHING = "nothing"


def sweep_form(pipe: VersatileDiffusionPipeline, samples: Sequence[str]) -> Form:
    """A task over one or two settings, as a sheet to compare."""
    tasks = [task.name for task in pipe.tasks() if task.flow.data == FROM_BOTH.data]
    styles = ", ".join(list(pipe.config.styles)[:4])

    def draw(setting: Setting) -> dict[str, Any]:
        drawn: dict[str, Any] = {"task": gr.Dropdown(tasks, value=tasks[0], label="Task")}
        with gr.Row(elem_classes="cards"):
            drawn["text"] = gr.Textbox(label="Text", info="Where the task takes one.", max_length=500, min_width=180)
            drawn["image"] = picture("Picture", height=150, min_width=180)
        for name, usual in (("across", "guidance_scale"), ("down", NOTHING)):
            with gr.Row():
                choices = [*AXES] if name == "across" else [NOTHING, *AXES]
                drawn[name] = gr.Dropdown(choices, value=usual, label=name.capitalize(), min_width=120)
                info = "Or first:end:step."
                values = gr.Textbox(AXES.get(usual, ""), label=f"Values {name}", info=info, min_width=160)
                drawn[f"{name}-values"] = values

                def usual_values(setting: str) -> str:
                    return styles if setting == "style" else AXES.get(setting, "")

                drawn[name].input(usual_values, drawn[name], values, queue=False, **PRIVATE)
        flow = Flow("image", ("text", "image"))
        return drawn | draw_settings(flow, setting, {}, drawn, without=("count", "rank", "mixing", "layer_seed"))

    def asks(values: Values) -> list[Ask]:
        task = TASKS[values["task"]]
        conditions = [condition(name, name, {name: values[name]}) for name in task.flow.contexts]
        if None in conditions:
            raise ValueError(f"{task.name} needs {' and '.join(f'a {name}' for name in task.flow.contexts)}")
        shared = {n: v for n, v in seeded(values).items() if _fits(n, task.flow)}
        made = []
        for choices in product(*([(axis.name, value) for value in axis.values] for axis in _axes(values))):
            changed, arguments = sweep.cell(filled(conditions, ""), choices)
            label = ", ".join(f"{name} {value}" for name, value in choices)
            made.append(Ask(task.flow.data, tuple(changed), {**shared, **arguments}, label=label))
        return made

    def together(values: Values, outputs: Sequence[Output], model: str) -> tuple[Any, dict[str, Any]]:
        return sheet(outputs, _axes(values), model)

    return Form(
        "sweep",
        "Compare",
        "One task over one or two settings, side by side on a sheet.",
        "image",
        draw,
        asks,
        (("text", "text"), ("image", "image")),
        ("task", "text", "across", "across-values", "down", "down-values"),
        (
            ("text-to-image", "a red apple", "guidance_scale", "1, 4, 8", NOTHING, ""),
            ("text-to-image", "a smiling face", "style", styles or "noto", "seed", "0, 1"),
        ),
        "Compare",
        together,
    )


def sheet(outputs: Sequence[Output], axes: Sequence[sweep.Axis], model: str) -> tuple[Any, dict[str, Any]]:
    """A labelled sheet of the first picture of each run, and the record that `versatile replay` reads."""
    told = {
        "sweep": [[axis.name, list(axis.values)] for axis in axes],
        "cells": [sweep.cell_record(output) for output in outputs],
        "from_pretrained": model,
        "threads": torch.get_num_threads(),
    }
    return sweep.sheet(outputs, axes), told


def _axes(values: Values) -> list[sweep.Axis]:
    """The settings to go over, the one that goes down first."""
    axes = []
    for name in ("down", "across"):
        setting, text = values[name], "".join((values[f"{name}-values"] or "").split())
        if setting in (None, NOTHING):
            continue
        if not text:
            raise ValueError(f"give the values of {setting}, such as {AXES.get(setting) or 'a, b'}")
        axes.append(sweep.axis(f"{setting}={text}"))
    if not axes:
        raise ValueError("choose a setting to go over")
    return axes


def _fits(argument: str, flow: Flow) -> bool:
    """Whether a flow takes an argument."""
    from versatile_diffusion.cli.options import BELONGS

    return argument not in frozenset().union(*(names for has, names in BELONGS.items() if not has(flow)))


def _half_painted(shown: Image.Image) -> dict[str, str | None] | None:
    """A picture with a disc painted over its upper half, as an example."""
    mask = Image.new("L", (256, round(256 * shown.height / shown.width)))
    ImageDraw.Draw(mask).ellipse((56, 0, 200, mask.height // 2), fill=255)
    return canvas(shown, mask)


def _needed(values: Values, name: str) -> Any:
    image = read_picture(values[name])
    if image is None:
        raise ValueError("give a picture first")
    return image
