"""Every shipped model, in every dtype, read at once or on use: all of its tasks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from versatile_diffusion import Condition, VersatileDiffusionPipeline
from versatile_diffusion.shipped import shipped_models

VALUES: dict[str, Any] = {"text": "a red apple", "image": Image.new("RGB", (64, 64), "red")}


@pytest.mark.campaign
@pytest.mark.parametrize("on_use", [False, True], ids=["at_once", "on_use"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", shipped_models())
def test_all_tasks(name: str, dtype: torch.dtype, on_use: bool) -> None:
    pipe = VersatileDiffusionPipeline.from_pretrained(name, torch_dtype=dtype, on_use=on_use)
    pipe.set_progress_bar_config(disable=True)
    assert pipe.tasks()
    for task in pipe.tasks():
        conditions = [Condition(modality, VALUES[modality]) for modality in task.flow.contexts]
        made = pipe.generate(task.flow.data, conditions, seed=0, num_inference_steps=2)
        assert made.latents.isfinite().all(), task.name
        value = made.values[0]
        assert "<" not in value if isinstance(value, str) else np.asarray(value).std() > 1, task.name
    assert pipe.unet.dtype == dtype


@pytest.mark.parametrize("name", shipped_models())
def test_texts_in_float16_on_use(name: str) -> None:
    """The quick part of it, where most went wrong: tokens of padded words, and latents that outgrow the dtype."""
    pipe = VersatileDiffusionPipeline.from_pretrained(name, "float16", on_use=True)
    pipe.set_progress_bar_config(disable=True)
    exact = VersatileDiffusionPipeline.from_pretrained(name)
    exact.set_progress_bar_config(disable=True)
    tokens, wanted = pipe.encode_context("a red apple").float(), exact.encode_context("a red apple")
    assert (tokens - wanted).abs().max() < 0.01 * wanted.abs().max()
    made, wanted = (one.text_variation("a red apple", seed=0, num_inference_steps=2).latents for one in (pipe, exact))
    assert (made - wanted).abs().max() < 0.05 * wanted.abs().max()
