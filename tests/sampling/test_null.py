"""What stands for no guidance: by task, by release, and by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

from versatile_diffusion import Condition, VersatileDiffusionPipeline
from versatile_diffusion.flow import Flow
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.pipeline.request import null_of
from versatile_diffusion.tasks import TASKS

FEW = {"num_inference_steps": 2, "guidance_scale": 3.0, "seed": 0}


def test_releases() -> None:
    for task in TASKS.values():
        for modality in task.flow.contexts:
            assert null_of(task.flow, modality) == null_of(task.flow, modality, "2023") == task.null[modality]
    assert null_of(Flow("image", ("image",)), "image", "2022") == "grey"
    assert null_of(Flow("text", ("image",)), "image", "2022") == "grey"
    assert null_of(Flow("image", ("text",)), "text", "2022") == "empty"
    assert null_of(Flow("image", ("text", "image")), "image", {"text": "zeros"}) == "zeros"
    assert null_of(Flow("image", ("text", "image")), "text", {"text": "zeros"}) == "zeros"


def test_a_null_context_is_what_is_kept_away_from(
    tiny_pipeline: VersatileDiffusionPipeline, picture: Image.Image
) -> None:
    def latents(negative: Any = None, **options: Any) -> torch.Tensor:
        condition = Condition("image", picture, negative=negative)
        return tiny_pipeline.generate("image", [condition], **options, **FEW).latents

    blanks = MODALITIES["image"].blanks
    assert torch.equal(latents(null="2022"), latents(negative=blanks["grey"]))
    assert torch.equal(latents(null={"image": "black"}), latents(negative=blanks["black"]))
    assert torch.equal(latents(null="2023"), latents())
    assert not torch.equal(latents(null="2022"), latents())


@pytest.mark.parametrize(
    ("null", "message"),
    [("2021", "unknown null '2021'"), ({"sound": "zeros"}, "unknown modality"), ({"text": "grey"}, "zeros, empty")],
)
def test_what_is_refused(tiny_pipeline: VersatileDiffusionPipeline, null: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_pipeline.text_to_image("a", null=null)
