"""What a model can do, before anybody has asked: results with their prompts, and the words that it knows."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from versatile_diffusion.shipped import homes_of, shipped_models
from versatile_diffusion.tasks import TASKS
from versatile_diffusion.ui.forms.widgets import PRIVATE, asset, form_of

if TYPE_CHECKING:
    from versatile_diffusion import VersatileDiffusionPipeline
    from versatile_diffusion.ui.forms.tabs import Form

FOLDER, INDEX = "showcase", "showcase.json"
KINDS = {".png": "png", ".webp": "webp"}


@dataclass(frozen=True)
class Shown:
    """A result of the showcase. Args: file: the image. prompt, seed: how it was generated, with the task's defaults."""

    file: Path
    prompt: str
    seed: int


def shown_by(pipe: VersatileDiffusionPipeline) -> list[Shown]:
    """Return the results that an installed model includes, or the one that it extends; none for other models."""
    homes = homes_of(pipe.model_name) if pipe.model_name in shipped_models() else ()
    index = next((file for home in homes if (file := home / FOLDER / INDEX).is_file()), None)
    if index is None:
        return []
    rows = json.loads(index.read_text(encoding="utf-8"))
    return [Shown(index.parent / row["file"], row["prompt"], row["seed"]) for row in rows]


def words_of(pipe: VersatileDiffusionPipeline) -> list[str]:
    """Return the concepts that the model was trained on, for its prompts."""
    return sorted(pipe.config.vocabulary or (), key=str.lower)


def is_prompted(form: Form) -> bool:
    """Return whether a form generates what can be shown from what is typed, and nothing else."""
    contexts = TASKS[form.name].flow.contexts if form.name in TASKS else ()
    return form_of(form.data) == "painted" and [form_of(name) for name in contexts] == ["typed"]


def draw_showcase(pipe: VersatileDiffusionPipeline, prompt: Any, seed: Any) -> bool:
    """Draw results and vocabulary; a click fills in prompt and seed. False if the model has neither."""
    results, words = shown_by(pipe), words_of(pipe)
    if not results and not words:
        return False
    strip = gr.HTML(
        None,
        html_template=page_of(results, words),
        js_on_load=asset("showcase.js"),
        apply_default_css=False,
        elem_classes="showcase",
    )

    def fill(chosen: Any) -> list[Any]:
        prompt, seed = (chosen.get("prompt"), chosen.get("seed")) if isinstance(chosen, dict) else (None, None)
        return [
            str(prompt)[:500] if prompt else gr.skip(),
            seed if isinstance(seed, int) and not isinstance(seed, bool) else gr.skip(),
        ]

    strip.change(fill, strip, [prompt, seed], queue=False, **PRIVATE)
    return True


def page_of(results: Sequence[Shown], words: Sequence[str]) -> str:
    """Return the strip and the vocabulary as HTML."""
    images = "".join(
        f'<button type="button" data-prompt="{escape(one.prompt)}" data-seed="{one.seed}">'
        f'<img src="{_data_url(one.file)}" alt=""><span>{escape(one.prompt)}</span></button>'
        for one in results
    )
    strip = f'<p>Click a result to fill in its prompt and seed.</p><div class="strip">{images}</div>' if images else ""
    chips = "".join(f'<button type="button" data-prompt="{escape(w)}">{escape(w)}</button>' for w in words)
    known = f"This model knows {len(words)} things; other words have little effect."
    return strip + (f'<details><summary>{known}</summary><div class="chips">{chips}</div></details>' if words else "")


def _data_url(file: Path) -> str:
    """Return an image as a data URL, which no clean-up of uploads can remove."""
    return f"data:image/{KINDS[file.suffix]};base64,{base64.b64encode(file.read_bytes()).decode()}"
