"""Choice of model and adapters while the studio runs, among those that whoever started it allowed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from versatile_diffusion.pipeline.models import size_of
from versatile_diffusion.training.engine.tracking import memory
from versatile_diffusion.ui.forms.controls import PRIVATE
from versatile_diffusion.ui.page import stage
from versatile_diffusion.ui.page.desk import Desk, one_sentence
from versatile_diffusion.ui.queue.adapters import apply

ROWS = 3
"""Adapters that can act together."""
NONE = "none"
MOST_WEIGHT = 2.0
TROUBLES = (ValueError, OSError, MemoryError, RuntimeError)
"""What loading can fail with; the studio goes on with what it has."""


@dataclass(frozen=True)
class AllowedModels:
    """What may be chosen; nothing else is ever opened.

    Args:
        models: names or folders.
        adapters: files by displayed name.
        switch: `(model)`: loads a model and opens the page again with it; None if the model is not to be changed.
    """

    models: tuple[str, ...] = ()
    adapters: Mapping[str, Path] = field(default_factory=dict)
    switch: Callable[[str], None] | None = None


def loaded_html(desk: Desk, title: str) -> str:
    """Return what is loaded and the memory it takes, as HTML."""
    pipe = desk.pipe
    weights = sum(p.numel() * p.element_size() for p in pipe.unet.parameters() if not p.is_meta) / 2**20
    acting = ", ".join(pipe.get_active_adapters()) or NONE
    peak = memory(pipe.unet.device) * 1024
    where = "GPU" if pipe.unet.device.type == "cuda" else "process"
    return (
        f"<p>Model: {escape(title)}; LoRA: {escape(acting)}. Diffuser in memory: {weights:,.0f} MB; "
        f"most memory taken by this {where}: {peak:,.0f} MB.</p>"
    )


def models_panel(desk: Desk, title: str, choices: AllowedModels) -> None:
    """Draw and connect the panel; nothing if there is nothing to choose."""
    able = choices.switch is not None and len(choices.models) > 1
    if not able and not choices.adapters:
        return
    with gr.Accordion("Model and LoRA", open=False, elem_id="models"):
        said = gr.HTML(loaded_html(desk, title), elem_classes="help")
        if able:
            with gr.Row(elem_classes="deeds"):
                sizes = [(_with_size(name), name) for name in choices.models]
                model = gr.Dropdown(sizes, value=title if title in choices.models else None, label="Model")
                load = gr.Button("Load model", min_width=120, scale=0, elem_id="load-model")
            _link_model(desk, choices, model, load, said)
        if choices.adapters:
            _adapters(desk, title, choices.adapters, said)


def _with_size(name: str) -> str:
    size = size_of(name) if Path(name).is_dir() else 0
    return f"{name} ({size / 2**20:,.0f} MB)" if size else name


def _adapters(desk: Desk, title: str, files: Mapping[str, Path], said: Any) -> None:
    names, weights = [], []
    for k in range(ROWS):
        with gr.Row():
            names.append(gr.Dropdown([NONE, *files], value=NONE, label=f"LoRA {k + 1}", min_width=160))
            weights.append(gr.Slider(-MOST_WEIGHT, MOST_WEIGHT, 1.0, step=0.05, label="Weight", min_width=160))
    button = gr.Button("Apply LoRA", elem_id="apply-lora")

    async def act(*given: Any) -> str:
        chosen = {name: float(weight) for name, weight in zip(given[:ROWS], given[ROWS:], strict=True) if name != NONE}
        try:
            check_idle(desk)
            call = desk.engine.call(lambda between: apply(desk.pipe, chosen, files), client="studio")
            await asyncio.to_thread(call.future.result)
        except TROUBLES as error:
            return stage.trouble(one_sentence(error))
        return loaded_html(desk, title)

    button.click(act, [*names, *weights], said, **PRIVATE)


def check_idle(desk: Desk) -> None:
    """Raise ValueError while requests run: they would change in the middle."""
    if desk.busy:
        raise ValueError("requests are running or waiting; wait until they are done, or stop them")


def _link_model(desk: Desk, choices: AllowedModels, model: Any, load: Any, said: Any) -> None:
    async def switch(name: str | None) -> AsyncIterator[str]:
        assert choices.switch is not None
        yield stage.remark(f"Loading {name}. The page opens again when it is ready.")
        try:
            if name not in choices.models:
                raise ValueError("choose a model first")
            check_idle(desk)
            await asyncio.to_thread(choices.switch, name)
        except TROUBLES as error:
            yield stage.trouble(one_sentence(error))

    load.click(switch, model, said, **PRIVATE)
    load.click(None, js="() => versatileStudio.again()", **PRIVATE)
