"""Form of joint sampling: an image and its caption, generated together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import gradio as gr

from versatile_diffusion.applications.joint import ALONE, Exchange, joint
from versatile_diffusion.controls import DECODING
from versatile_diffusion.flow import Condition, Flow
from versatile_diffusion.pipeline.output import Output
from versatile_diffusion.ui.forms.controls import WIDGETS, Setting, arguments_of, condition, draw_controls
from versatile_diffusion.ui.forms.tabs import (
    EXAMPLE_TEXTS,
    SEVERAL_CONTEXTS,
    Form,
    Values,
    draw_settings,
    seed_arguments,
)
from versatile_diffusion.ui.forms.widgets import picture
from versatile_diffusion.ui.queue.jobs import Ask

if TYPE_CHECKING:
    from versatile_diffusion import VersatileDiffusionPipeline

INPUTS = ("text", "image")
FLOWS = Flow("image", INPUTS), Flow("text", INPUTS)
OF_TEXTS = frozenset({"style", "negative_prompt"})
CAPTION = "caption."  # prefix of the caption's controls


def joint_form(pipe: VersatileDiffusionPipeline, samples: Sequence[str]) -> Form:
    """Form that generates an image and its caption, conditional or unconditional."""

    def draw(setting: Setting) -> dict[str, Any]:
        drawn: dict[str, Any] = {}
        with gr.Row(elem_classes="cards"):
            info = "Conditions both; optional."
            drawn["text"] = gr.Textbox(label="Prompt", info=info, max_length=500, min_width=180)
            drawn["image"] = picture("Image", height=150, min_width=180)
        drawn |= draw_settings(
            FLOWS[0], setting, {name: (name, SEVERAL_CONTEXTS) for name in INPUTS}, drawn, (*ALONE, "match_colours")
        )
        with gr.Accordion("How image and caption condition each other", open=False), gr.Row(elem_classes="settings"):
            drawn |= _exchange()
            usual = pipe.config.defaults.get("image-to-text", {}).get("guidance_scale", 7.5)
            drawn[f"{CAPTION}guidance_scale"] = gr.Slider(0, 20, usual, step=0.5, label="Guidance scale of the caption")
            words = draw_controls({name: WIDGETS[name] for name in DECODING}, setting, fold=True)
            drawn |= {CAPTION + name: component for name, component in words.items()}
        return drawn

    def asks(values: Values) -> list[Ask]:
        given = (condition(name, name, values) for name in INPUTS)
        conditions, arguments = [one for one in given if one is not None], seed_arguments(values)
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
        "Generate an image and its caption together, from a prompt, an image, both, or neither.",
        "image",
        draw,
        asks,
        tuple((name, name) for name in INPUTS),
        INPUTS,
        ((EXAMPLE_TEXTS[0], None), *(("", sample) for sample in samples[3:5])),
        besides=("text",),
    )


def _exchange() -> dict[str, Any]:
    """Draw the controls of `Exchange`, by field."""
    usual = Exchange()
    least = "Given inputs have weight 1."
    return {
        "caption_weight": gr.Slider(0, 3, usual.caption_weight, step=0.1, label="Weight of the caption", info=least),
        "picture_weight": gr.Slider(0, 3, usual.picture_weight, step=0.1, label="Weight of the image", info=least),
        "every": gr.Slider(1, 20, usual.every, step=1, label="Exchange every", info="Steps."),
        "after": gr.Slider(0, 0.95, usual.after, step=0.05, label="Exchange from", info="0 = noise, 1 = done."),
    }
