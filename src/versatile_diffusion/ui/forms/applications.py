"""Forms of the applications: blend, disentangle, edit, inpaint; with those of `joint.py` and `compare.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import gradio as gr
import numpy as np
from PIL import Image, ImageDraw

from versatile_diffusion.applications import sweep
from versatile_diffusion.applications.disentangle import levels, restyle
from versatile_diffusion.applications.round_trip import IMAGE_WEIGHT, edit
from versatile_diffusion.flow import Condition, Flow
from versatile_diffusion.modalities.image import check_image
from versatile_diffusion.pipeline.output import Output
from versatile_diffusion.ui.forms.blend import FROM_BOTH, blend_form
from versatile_diffusion.ui.forms.compare import compare_form, sheet
from versatile_diffusion.ui.forms.controls import (
    PRIVATE,
    Setting,
    colour_match,
    condition,
    link_painter,
)
from versatile_diffusion.ui.forms.fields import DENOISING, as_fidelity, denoising_slider, multiple_of
from versatile_diffusion.ui.forms.joint import FLOWS, joint_form
from versatile_diffusion.ui.forms.outpaint import NONE, draw_outpaint, enlarge
from versatile_diffusion.ui.forms.tabs import (
    First,
    Form,
    Values,
    draw_settings,
    sample_files,
    seed_arguments,
)
from versatile_diffusion.ui.forms.widgets import painter, picture
from versatile_diffusion.ui.page.shelf import Sheet
from versatile_diffusion.ui.page.uploads import canvas, read_mask, read_picture
from versatile_diffusion.ui.queue.jobs import Ask

if TYPE_CHECKING:
    from versatile_diffusion import VersatileDiffusionPipeline

FROM_PICTURE = Flow("image", ("image",))


def application_forms(pipe: VersatileDiffusionPipeline) -> list[Form]:
    """Return the application forms that the model supports."""
    samples = sample_files("image")
    makers: Mapping[Any, Sequence[Flow]] = {
        blend_form: [FROM_BOTH],
        disentangle_form: [FROM_PICTURE],
        edit_form: [FROM_BOTH],
        inpaint_form: [FROM_BOTH],
        joint_form: FLOWS,
        compare_form: [task.flow for task in pipe.tasks()[:1]] or [FROM_BOTH],
    }
    return [make(pipe, samples) for make, flows in makers.items() if all(pipe.can(flow) for flow in flows)]


DIAL, LEVELS, STYLE_OF = "Single level", "All five levels", "Style of another image"


def disentangle_form(pipe: VersatileDiffusionPipeline, samples: Sequence[str]) -> Form:
    """Form that separates an image's content and style."""

    def draw(setting: Setting) -> dict[str, Any]:
        drawn: dict[str, Any] = {}
        with gr.Row(elem_classes="cards"):
            with gr.Column(min_width=180):
                drawn["image"] = picture("Image")
            with gr.Column(min_width=180, visible=False) as other:
                drawn["style-of"] = picture("Style from")
        drawn["mode"] = gr.Radio([DIAL, LEVELS, STYLE_OF], value=DIAL, label="Mode")
        with gr.Column() as dial:
            info = "0 keeps the content, 0.5 everything, 1 the style."
            drawn["dial"] = gr.Slider(0, 1, 0.2, step=0.05, label="Dial", info=info)
        with gr.Column(visible=False) as strength:
            info = "Number of main components taken as style."
            drawn["components"] = gr.Slider(1, 10, 2, step=1, label="Components", info=info)

        def turned(mode: str) -> list[Any]:
            return [gr.update(visible=mode == DIAL), *[gr.update(visible=mode == STYLE_OF)] * 2]

        drawn["mode"].change(turned, drawn["mode"], [dial, strength, other], queue=False, **PRIVATE)
        return drawn | draw_settings(FROM_PICTURE, setting, {"image": ("image", ("mask", "start", "end"))}, drawn)

    def asks(values: Values) -> list[Ask]:
        image = condition("image", "image", values)
        if image is None:
            raise ValueError("add an image first")
        arguments = seed_arguments(values)
        after = colour_match(values, image.value)
        if values["mode"] == DIAL:
            return [Ask("image", (replace(image, focus=float(values["dial"])),), arguments, after=after)]
        if values["mode"] == LEVELS:
            one = {**arguments, "num_outputs": 1}
            strip = [(replace(image, focus=focus), f"level {focus.level:+g}") for focus in levels()]
            return [Ask("image", (at,), one, after=after, label=label) for at, label in strip]
        style = read_picture(values["style-of"])
        if style is None:
            raise ValueError("add the style image, too")

        def call(pipe: VersatileDiffusionPipeline, **own: Any) -> Output:
            return restyle(pipe, style, image.value, components=int(values["components"]), **own)

        return [Ask("image", (image,), arguments, call, colour_match(values, style))]

    return Form(
        "disentangle",
        "Disentangle",
        "Vary an image by content or style: one focus level, all five levels, or the style of another image.",
        "image",
        draw,
        asks,
        (("image", "image"), ("image", "style-of")),
        ("image", "style-of", "mode"),
        tuple(
            (one, samples[k - 1] if mode == STYLE_OF else None, mode)
            for (k, one), mode in zip(enumerate(samples), (LEVELS, DIAL, STYLE_OF), strict=False)
        ),
        together=_strip,
    )


def _strip(values: Values, outputs: Sequence[Output], model: str) -> Sheet | None:
    """Draw the levels side by side; None in the other modes."""
    if values["mode"] != LEVELS:
        return None
    return sheet(outputs, [sweep.Axis("level", tuple(focus.level for focus in levels()))], model)


def edit_form(pipe: VersatileDiffusionPipeline, samples: Sequence[str]) -> Form:
    """Form that edits an image with words."""

    def draw(setting: Setting) -> dict[str, Any]:
        drawn: dict[str, Any] = {"image": picture("Image")}
        info = "Describes the image. Click Write caption, then edit."
        drawn["caption"] = gr.Textbox(label="Caption", info=info, max_length=500)
        info = "Relative to the caption; the caption has the rest."
        drawn["keep"] = gr.Slider(0, 1, IMAGE_WEIGHT, step=0.01, label="Image weight", info=info)
        with gr.Accordion("Or edit without a caption: remove and add", open=False), gr.Row():
            drawn["remove"] = gr.Textbox(label="Remove", max_length=200, min_width=120)
            drawn["add"] = gr.Textbox(label="Add", max_length=200, min_width=120)
        without = ("negative_prompt", "layer_seed", "layer_plan", "mixing")
        return drawn | draw_settings(FROM_BOTH, setting, {}, drawn, without=without)

    def asks(values: Values) -> list[Ask]:
        image = _require_image(values, "image")
        words = {name: values[name].strip() for name in ("remove", "add") if (values[name] or "").strip()}
        if not words and not (values["caption"] or "").strip():
            raise ValueError("enter or generate a caption, or fill in Remove or Add")
        words = words or {"caption": values["caption"].strip()}

        def call(pipe: VersatileDiffusionPipeline, **own: Any) -> Output:
            captioning = {"callback_on_step_end": own["callback_on_step_end"]}
            return edit(pipe, image, **words, image_weight=float(values["keep"]), captioning=captioning, **own).picture

        return [Ask("image", (Condition("image", image),), seed_arguments(values), call, colour_match(values, image))]

    def look(values: Values) -> list[Ask]:
        image = _require_image(values, "image")
        return [Ask("text", (Condition("image", image),), {"seed": 0, "temperature": 0.0})]

    first = First("Write caption", look, "caption") if pipe.can(Flow("text", ("image",))) else None
    captions = ("a green cactus with a flower", "a pink ice cream", "a smiling face with sunglasses")
    return Form(
        "edit",
        "Edit",
        "Edit an image through its caption: generate a caption, change it, and regenerate the image.",
        "image",
        draw,
        asks,
        (("image", "image"), ("text", "caption")),
        ("image", "caption"),
        tuple(zip(samples[1:], captions, strict=False)),
        first=first,
    )


def inpaint_form(pipe: VersatileDiffusionPipeline, samples: Sequence[str]) -> Form:
    """Form that regenerates part of an image."""
    codec = pipe.bank.codecs["image"]

    def draw(setting: Setting) -> dict[str, Any]:
        drawn: dict[str, Any] = {}
        with gr.Row(elem_classes="cards"):
            with gr.Column(min_width=180):
                drawn["image"] = picture("Image")
            with gr.Column(min_width=180):
                drawn["image.mask"] = painter("Paint the area to regenerate")
        drawn["text"] = gr.Textbox(label="Prompt", info="Empty: continue the image itself.", max_length=500)
        drawn |= draw_outpaint()
        drawn[DENOISING] = denoising_slider(0.05, 1)
        link_painter(drawn["image"], drawn["image.mask"], codec.fit)
        without = ("mixing", "layer_seed", "layer_plan", "width", "height", "start", DENOISING, "match_colours")
        return drawn | draw_settings(FROM_BOTH, setting, {}, drawn, without=without)

    def asks(values: Values) -> list[Ask]:
        image, mask = _require_image(values, "image"), read_mask(values["image.mask"])
        arguments = seed_arguments(values)
        if values["outpaint"] not in (None, NONE):
            given = codec.fit(image), mask, values["outpaint"], float(values["outpaint_by"])
            larger = enlarge(*given, multiple_of(pipe, "image"))
            width, height = larger.image.size
            arguments |= {"start": larger.image, "repaint": larger.mask, "width": width, "height": height}
        elif mask is None:
            raise ValueError("paint over the area to regenerate, or choose sides to outpaint")
        else:
            arguments |= {"start": codec.fit(image), "repaint": np.asarray(mask, np.float32) / 255}
        if fidelity := as_fidelity(values[DENOISING]):
            arguments["fidelity"] = fidelity
        text = condition("text", "text", {"text": values["text"]})
        if text is None:
            arguments = {n: v for n, v in arguments.items() if n not in ("style", "negative_prompt")}
        return [Ask("image", (text or Condition("image", image),), arguments)]

    return Form(
        "inpaint",
        "Inpaint",
        "Paint over part of an image, or enlarge its canvas; only that part is generated.",
        "image",
        draw,
        asks,
        (("image", "image"), ("text", "text")),
        ("image", "image.mask", "text"),
        tuple(
            (sample, _half_painted(codec.fit(check_image(sample))), text)
            for sample, text in zip(samples, ("a red heart", "a green leaf", "a yellow star"), strict=False)
        ),
    )


def _half_painted(shown: Image.Image) -> dict[str, str | None] | None:
    """Return an image with a disc painted over its upper half, as an example."""
    mask = Image.new("L", (256, round(256 * shown.height / shown.width)))
    ImageDraw.Draw(mask).ellipse((56, 0, 200, mask.height // 2), fill=255)
    return canvas(shown, mask)


def _require_image(values: Values, name: str) -> Any:
    image = read_picture(values[name])
    if image is None:
        raise ValueError("add an image first")
    return image
