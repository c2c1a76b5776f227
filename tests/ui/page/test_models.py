"""Another model, and adapters, while the studio runs."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="gradio is not installed (extra 'ui')")

import httpx
import torch
from tiny import build_tiny_pipeline

from versatile_diffusion import VersatileDiffusionPipeline
from versatile_diffusion.ui.page.models import loaded_html
from versatile_diffusion.ui.queue.adapters import adapters_in, apply
from versatile_diffusion.ui.serve import Running, StudioModels, running


def adapter(folder: Path, seed: int) -> None:
    """Writes an adapter of the tiny model that changes its images."""
    lora = pytest.importorskip("versatile_diffusion.training.diffuser.lora")
    pipe = build_tiny_pipeline()
    lora.add_lora(pipe.unet, lora.LoraSettings(rank=2))
    torch.manual_seed(seed)
    for name, weight in pipe.unet.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    pipe.save_lora_weights(folder)


def image(pipe: VersatileDiffusionPipeline) -> bytes:
    return pipe.text_to_image("a cat", num_inference_steps=2, seed=0).images[0].tobytes()


@pytest.mark.slow
def test_adapters_act_together_by_weight_and_rest_again(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    adapter(tmp_path / "one", 1)
    adapter(tmp_path / "two.d", 2)
    (tmp_path / "loose.safetensors").write_bytes((tmp_path / "one" / "pytorch_lora_weights.safetensors").read_bytes())
    files = adapters_in(tmp_path)
    assert list(files) == ["loose", "one/pytorch_lora_weights", "two.d/pytorch_lora_weights"]
    one, two = list(files)[1:]
    pipe = build_tiny_pipeline()
    plain = image(pipe)
    apply(pipe, {one: 1.0}, files)
    first = image(pipe)
    apply(pipe, {one: 1.0, two: 0.5}, files)
    both = image(pipe)
    apply(pipe, {one: 0.0}, files)
    assert image(pipe) == plain
    assert len({plain, first, both}) == 3
    apply(pipe, {}, files)
    assert image(pipe) == plain
    assert pipe.get_active_adapters() == []
    with pytest.raises(ValueError, match="not in the folder"):
        apply(pipe, {"../../x": 1.0}, files)


def test_a_folder_that_is_none(tmp_path: Path) -> None:
    assert adapters_in(None) == {}
    with pytest.raises(ValueError, match="not a folder"):
        adapters_in(tmp_path / "missing")


def shown(studio: Running, text: str) -> bool:
    """Whether the page names a model; not while the server is away."""
    try:
        return text in httpx.get(f"{studio.url}config", trust_env=False, timeout=600).text
    except httpx.HTTPError:
        return False


@pytest.mark.slow
def test_another_model_is_loaded_without_a_restart(tiny_pipeline: VersatileDiffusionPipeline, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()

    def load(name: str) -> VersatileDiffusionPipeline:
        pipe = build_tiny_pipeline()
        pipe.register_to_config(styles={f"style of {name}": "x"})
        return pipe

    with running(tiny_pipeline, "first", choice=StudioModels(("first", "second"), None, load)) as studio:
        url, page, switch = studio.url, studio.page, studio.studio.choices.switch
        assert "most memory taken by this process" in loaded_html(studio.studio.desk, "first")
        assert switch is not None
        with pytest.raises(ValueError, match="not among the models"):
            switch("/etc")
        switch("second")
        for _ in range(600):
            if studio.page is not page and shown(studio, "style of second"):
                break
            time.sleep(0.1)
        assert shown(studio, "style of second")
        assert (studio.url, studio.studio.shelves.model) == (url, "second")


@pytest.mark.slow
def test_nothing_is_chosen_where_others_can_log_in(tiny_pipeline: VersatileDiffusionPipeline) -> None:
    choice = StudioModels(("first", "second"), None, lambda name: tiny_pipeline)
    with running(tiny_pipeline, "first", auth=["ada:secret"], choice=choice) as studio:
        assert studio.studio.choices.switch is None
        assert "load-model" not in str(studio.page.get_config_file())
