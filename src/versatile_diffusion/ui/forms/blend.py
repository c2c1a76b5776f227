"""Form of blending: a card per input, which can be added, removed and moved."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gradio as gr

from versatile_diffusion.flow import Flow
from versatile_diffusion.ui.forms.controls import PRIVATE, Setting, colour_match, condition, draw_handles, link_painter
from versatile_diffusion.ui.forms.tabs import (
    SEVERAL_CONTEXTS,
    Form,
    Values,
    draw_settings,
    first_picture,
    require_any,
    seed_arguments,
)
from versatile_diffusion.ui.forms.widgets import form_of, picture
from versatile_diffusion.ui.queue.jobs import Ask

if TYPE_CHECKING:
    from versatile_diffusion import VersatileDiffusionPipeline

FROM_BOTH = Flow("image", ("text", "image"))
PICTURES = tuple(f"picture-{k}" for k in range(1, 5))
TEXTS = ("text-1", "text-2")
INPUTS: Mapping[str, str] = {**dict.fromkeys(PICTURES, "image"), **dict.fromkeys(TEXTS, "text")}
"""Modality of each card."""
ORDER = "cards"
"""Field with the names of the open cards, in order."""
AT_FIRST = ("picture-1", "text-1")
ADDED = {"an image": PICTURES, "a prompt": TEXTS}
IN_FRONT = ("weight", "focus")


def blend_form(pipe: VersatileDiffusionPipeline, samples: Sequence[str]) -> Form:
    """Form for up to four images and two prompts, each with weight and controls."""
    names = (ORDER, "picture-1", "picture-1.weight", "picture-2", "picture-2.weight", "text-1", "text-1.weight")
    examples = [
        (cards, samples[k], 0.6, samples[k - 1], 0.4, text, weight)
        for cards, k, text, weight in EXAMPLES
        if len(samples) > 2
    ]
    return Form(
        "blend",
        "Blend",
        "Blend up to four images and two prompts by weight.",
        "image",
        _draw,
        _asks,
        tuple((kind, name) for name, kind in INPUTS.items()),
        names,
        tuple(examples),
        "Blend",
    )


EXAMPLES = (
    ("picture-1, picture-2", 0, "", 0.5),
    ("picture-1, picture-2, text-1", 1, "a red heart", 0.3),
    ("picture-1, picture-2, text-1", 2, "a 3d icon", 0.3),
)
"""Open cards, index of the first sample, prompt and its weight."""


def open_cards(written: Any) -> list[str]:
    """Return the open cards in order; unknown names are dropped, since files may hold anything."""
    names = [name.strip() for name in str(written or "").split(",")]
    return [name for name in dict.fromkeys(names) if name in INPUTS]


def _asks(values: Values) -> list[Ask]:
    order = dict.fromkeys([*open_cards(values.get(ORDER)), *INPUTS])
    conditions = require_any(
        [condition(name, INPUTS[name], values) for name in order], "add an image or a prompt first"
    )
    return [Ask("image", conditions, seed_arguments(values), after=colour_match(values, first_picture(conditions)))]


def _draw(setting: Setting) -> dict[str, Any]:
    order = gr.Textbox(", ".join(AT_FIRST), visible=False, label="Cards", max_length=200)
    drawn: dict[str, Any] = {ORDER: order}
    cards, buttons = {}, {}
    with gr.Column(elem_classes="stack"):
        for name in INPUTS:
            with gr.Column(visible=name in AT_FIRST, elem_classes=_place(name, AT_FIRST)) as cards[name]:
                buttons[name] = _head(name)
                drawn |= _card(name)
    with gr.Row():
        add = {label: gr.Button(f"Add {label}", size="sm", min_width=100) for label in ADDED}
    _link(order, cards, buttons, add, drawn)
    return drawn | draw_settings(FROM_BOTH, setting, {}, drawn)


def _head(name: str) -> list[Any]:
    """Draw a card's title and buttons: up, down, remove."""
    with gr.Row(elem_classes="card-head"):
        gr.HTML(f"<b>{_title(name)}</b>")
        return [
            gr.Button(sign, size="sm", scale=0, min_width=40, elem_id=f"{name}-{deed}")
            for deed, sign in {"up": "\u2191", "down": "\u2193", "remove": "\u2715"}.items()
        ]


def _card(name: str) -> dict[str, Any]:
    """Draw a card: the input and its weight; the other handles folded."""
    kind, drawn = INPUTS[name], dict[str, Any]()
    typed = form_of(kind) == "typed"
    with gr.Row(elem_classes="cards"):
        if typed:
            drawn[name] = gr.Textbox(label=_title(name), max_length=500, scale=2, min_width=160)
        else:
            drawn[name] = picture(_title(name), height=150, min_width=150)
        with gr.Column(min_width=150):
            drawn |= draw_handles(name, kind, IN_FRONT)
    title = f"{_title(name)}: {'' if typed else 'mask, '}region and schedule"
    with gr.Accordion(title, open=False), gr.Row(elem_classes="settings"):
        drawn |= draw_handles(name, kind, [handle for handle in SEVERAL_CONTEXTS if handle not in IN_FRONT])
    if f"{name}.mask" in drawn:
        link_painter(drawn[name], drawn[f"{name}.mask"])
    return drawn


def _link(
    order: Any, cards: Mapping[str, Any], buttons: Mapping[str, Any], add: Mapping[str, Any], drawn: Mapping[str, Any]
) -> None:
    """Connect the buttons: each changes the order, which shows the cards."""
    quiet: dict[str, Any] = {"queue": False, **PRIVATE}

    def shown(written: str) -> list[Any]:
        names = open_cards(written)
        return [gr.update(visible=name in names, elem_classes=_place(name, names)) for name in INPUTS]

    order.change(shown, order, [*cards.values()], **quiet)
    for name in INPUTS:
        up, down, remove = buttons[name]
        up.click(lambda written, name=name: _move_card(written, name, -1), order, order, **quiet)
        down.click(lambda written, name=name: _move_card(written, name, 1), order, order, **quiet)
        remove.click(lambda written, name=name: [_without(written, name), None], order, [order, drawn[name]], **quiet)
        # shown if another tab or a file fills it in
        drawn[name].change(
            lambda written, value, name=name: _with(written, name) if value else gr.skip(),
            [order, drawn[name]],
            order,
            **quiet,
        )
    for label, button in add.items():
        button.click(lambda written, among=ADDED[label]: _add_card(written, among), order, order, **quiet)


def _place(name: str, names: Sequence[str]) -> list[str]:
    return ["card", f"at-{list(names).index(name)}"] if name in names else ["card"]


def _as_list(names: Sequence[str]) -> str:
    return ", ".join(names)


def _with(written: str, name: str) -> str:
    return _as_list(list(dict.fromkeys([*open_cards(written), name])))


def _without(written: str, name: str) -> str:
    return _as_list([other for other in open_cards(written) if other != name])


def _add_card(written: str, among: Sequence[str]) -> str:
    """Open the next of these cards, if there is one."""
    names = open_cards(written)
    free = next((name for name in among if name not in names), None)
    return _as_list(names) if free is None else _with(written, free)


def _move_card(written: str, name: str, by: int) -> str:
    """Move a card up or down by one."""
    names = open_cards(written)
    if name not in names:
        return _as_list(names)
    place = names.index(name)
    to = min(max(place + by, 0), len(names) - 1)
    names.insert(to, names.pop(place))
    return _as_list(names)


def _title(name: str) -> str:
    return name.replace("picture", "image").replace("text", "prompt").replace("-", " ").capitalize()
