"""Fields with buttons or menus of their own."""

from __future__ import annotations

from dataclasses import replace

import pytest

pytest.importorskip("gradio", reason="gradio is not installed (extra 'ui')")

import gradio as gr

from versatile_diffusion import VersatileDiffusionPipeline
from versatile_diffusion.flow import Flow
from versatile_diffusion.ui.forms.fields import NEW, as_fidelity, seed_box, size_presets
from versatile_diffusion.ui.forms.tabs import label_of, setting_of
from versatile_diffusion.ui.queue.jobs import StudioLimits


def test_every_preset_is_a_size_that_the_model_generates(tiny_pipeline: VersatileDiffusionPipeline) -> None:
    setting = setting_of(tiny_pipeline, StudioLimits(), None)
    with gr.Blocks(analytics_enabled=False) as page:
        size_presets(setting, "image", gr.Number(), gr.Number())
    (menu,) = (block for block in page.blocks.values() if isinstance(block, gr.Dropdown))
    (event,) = page.fns.values()
    sizes = [event.fn(name) for name, _ in menu.choices]
    assert sizes[0] == [0, 0]
    assert len(sizes) == len({*map(tuple, sizes)}) > 1
    for width, height in sizes[1:]:
        options = {"width": width, "height": height, "num_inference_steps": 1, "seed": 0}
        assert tiny_pipeline.text_to_image("a cat", **options).images[0].size == (width, height)


def test_the_seed_of_the_last_result_is_filled_in(tiny_pipeline: VersatileDiffusionPipeline) -> None:
    seeds = {"ada": 7}
    setting = replace(setting_of(tiny_pipeline, StudioLimits(), None), last_seed=seeds.get)
    with gr.Blocks(analytics_enabled=False) as page:
        assert seed_box("Seed", setting).value == NEW
    dice, last = page.fns.values()
    assert dice.js == f"() => {NEW}"

    class Asked:
        session_hash = "ada"

    assert last.fn(Asked()) == 7
    Asked.session_hash = "bob"
    assert last.fn(Asked()) == gr.skip()


def test_words_of_the_field() -> None:
    assert label_of("text", Flow("image", ("text",))) == "Prompt"
    assert label_of("text", Flow("text", ("text",))) == "Text"
    assert label_of("image", Flow("text", ("image",))) == "Image"
    assert as_fidelity(as_fidelity(0.35)) == 0.35
