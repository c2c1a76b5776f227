"""The cards of the tab Blend: added, removed, moved; and the runs that they ask for."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="gradio is not installed (extra 'ui')")

import gradio as gr
from PIL import Image

from versatile_diffusion import VersatileDiffusionPipeline
from versatile_diffusion.ui.forms import blend
from versatile_diffusion.ui.forms.tabs import setting_of
from versatile_diffusion.ui.queue.jobs import StudioLimits


def test_cards_are_added_removed_and_moved() -> None:
    start = "picture-1, text-1"
    added = blend._add_card(start, blend.PICTURES)
    assert added == "picture-1, text-1, picture-2"
    moved = blend._move_card(added, "picture-2", -1)
    assert moved == "picture-1, picture-2, text-1"
    assert blend._move_card(moved, "picture-1", -1) == moved
    assert blend._move_card(moved, "text-1", 1) == moved
    assert blend._without(moved, "picture-1") == "picture-2, text-1"
    assert blend._add_card("picture-2", blend.PICTURES) == "picture-2, picture-1"
    assert blend._with(start, "text-1") == start
    every = ", ".join(blend.INPUTS)
    assert blend._add_card(every, blend.TEXTS) == every
    assert blend.open_cards("text-1,, text-1, ../x, picture-9, picture-4") == ["text-1", "picture-4"]


def test_inputs_are_combined_in_the_order_of_their_cards(
    tiny_pipeline: VersatileDiffusionPipeline, tmp_path: Path
) -> None:
    form = blend.blend_form(tiny_pipeline, [])
    with gr.Blocks(analytics_enabled=False) as page:
        drawn = form.draw(setting_of(tiny_pipeline, StudioLimits(), None))
    shown = [block for block in page.blocks.values() if isinstance(block, gr.Column) and "card" in block.elem_classes]
    assert [card.visible for card in shown] == [name in blend.AT_FIRST for name in blend.INPUTS]
    Image.new("RGB", (8, 8), "red").save(file := tmp_path / "a.png")
    values = {name: component.value for name, component in drawn.items()}
    values |= {"picture-1": str(file), "text-1": "a cat", "text-2": "a dog"}
    for order, modalities in (("text-1, picture-1, text-2", "tit"), ("picture-1, text-2, text-1", "itt"), ("", "itt")):
        (ask,) = form.asks({**values, blend.ORDER: order})
        assert "".join(one.modality[0] for one in ask.conditions) == modalities
    (ask,) = form.asks({**values, blend.ORDER: "picture-1, text-2, text-1"})
    assert [one.value for one in ask.conditions[1:]] == ["a dog", "a cat"]
