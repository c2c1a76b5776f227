"""The form of joint sampling: a picture and its caption, made together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import gradio as gr

from versatile_diffusion.applications.joint import ALONE, Exchange, joint
from versatile_diffusion.flow import Condition, Flow
from versatile_diffusion.sampling.output import Output
from versatile_diffusion.sampling.request import DECODING
from versatile_diffusion.ui.controls import CONTROLS, Setting, arguments_of, condition, draw_controls
from versatile_diffusion.ui.forms import SEVERAL_CONTEXTS, Form, Values, draw_settings, seeded
from versatile_diffusion.ui.jobs import Ask
from versatile_diffusion.ui.widgets import picture

if TYPE_CHECKING:
    from versatile_diffusion import VersatileDiffusionPipeline

INPUTS = ("text", "image")
FLOWS = Flow("image", INPUTS), Flow("text", INPUTS)
OF_TEXTS = frozenset({"style", "negative_prompt"})
CAPTION = "caption."  # before the names of controls of the caption


def joint_form(pipe: VersatileDiffusionPipeline, samples: Sequence[str]) -> Form:
    """A picture and its caption, from what guides both or from nothing."""

    def draw(setting: Setting) -> dict[str, Any]:
        drawn: dict[str, Any] = {}
        with gr.Row(elem_classes="cards"):
            info = "For both; may stay empty."
            drawn["text"] = gr.Textbox(label="Text", info=info, max_length=500, min_width=180)
            drawn["image"] = picture("Picture", height=150, min_width=180)
        drawn |= draw_settings(
            FLOWS[0], setting, {name: (name, SEVERAL_CONTEXTS) for name in INPUTS}, drawn, (*ALONE, "match_colours")
        )
        with gr.Accordion("How they guide each other", open=False), gr.Row(elem_classes="settings"):
            drawn |= _exchange()
            usual = pipe.config.defaults.get("image-to-text", {}).get("guidance_scale", 7.5)
            drawn[f"{CAPTION}guidance_scale"] = gr.Slider(0, 20, usual, step=0.5, label="Guidance of the caption")
            words = draw_controls({name: CONTROLS[name] for name in DECODING}, setting, fold=True)
            drawn |= {CAPTION + name: component for name, component in words.items()}
        return drawn

    def asks(values: Values) -> list[Ask]:
        given = (condition(name, name, values) for name in INPUTS)
        conditions, arguments = [one for one in given if one is not None], seeded(values)
        if not any(one.modality == "text" for one in conditions):
            arguments = {name: value for name, value in arguments.items() if name not in OF_TEXTS}
        exchange = Exchange(**{name: values[name] for name in Exchange.__dataclass_fields__})
        own = {name.removeprefix(CAPTION): value for name, value in values.items() if name.startswith(CAPTION)}

        def call(pipe: VersatileDiffusionPipeline, **arguments: Any) -> Output:
            return joint(pipe, conditions, exchange=exchange, captioning=arguments_of(own), **arguments).picture

        return [Ask("image", tuple(conditions) or (Condition("text", ""),), arguments, call)]

    return Form(
        "joint",
        "Joint",
        "A picture and its caption made together, each guiding the other; from a text, a picture, both, or nothing.",
        "image",
        draw,
        asks,
        tuple((name, name) for name in INPUTS),
        INPUTS,
        (("a red apple", None), *(("", sample) for sample in samples[3:5])),
        besides=("text",),
    )


def _exchange() -> dict[str, Any]:
    """Controls of `Exchange`, by its fields."""
    usual = Exchange()
    least = "Beside a weight of 1 for what is given."
    return {
        "caption_weight": gr.Slider(0, 3, usual.caption_weight, step=0.1, label="Weight of the caption", info=least),
        "picture_weight": gr.Slider(0, 3, usual.picture_weight, step=0.1, label="Weight of the picture", info=least),
        "every": gr.Slider(1, 20, usual.every, step=1, label="They hear of each other every", info="So many steps."),
        "after": gr.Slider(0, 0.95, usual.after, step=0.05, label="From", info="0 is noise, 1 is done."),
    }
