"""A run in which a number is not finite ends with a sentence that names the stage, not with a black image."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.tiny import ALL, build_tiny_pipeline
from versatile_diffusion import Condition, Context
from versatile_diffusion.diffuser.context import shares
from versatile_diffusion.modalities.audio.waveform import RATE, Waveform
from versatile_diffusion.sampling.focus import join_tokens
from versatile_diffusion.tasks import TASKS

FAST: dict[str, Any] = {"num_inference_steps": 2, "seed": 0}


@pytest.fixture
def pipe() -> Any:
    """A model that a test may break."""
    return build_tiny_pipeline()


def spoil(module: torch.nn.Module, name: str) -> None:
    module.get_parameter(name).data.view(-1)[0] = torch.nan


@pytest.mark.parametrize(
    ("part", "weight", "stage"),
    [
        ("unet", "time_embed.mlp.0.bias", "the text latents after the last step are not finite: .*; so is the weight"),
        ("encoder-text", "to_shared.bias", "the text context tokens that the encoder gave .* to_shared.bias of Dual"),
        ("codec-text", "decoder.to_memory.weight", "the logits of the next token .* to_memory.weight of LatentDecoder"),
    ],
)
def test_broken_weights_are_named_in_a_text(pipe: Any, part: str, weight: str, stage: str) -> None:
    spoil(pipe.unet if part == "unet" else pipe.bank.parts[part], weight)
    with pytest.raises(ValueError, match=stage):
        pipe.text_variation("a cat", **FAST)


@pytest.mark.parametrize(
    ("part", "weight", "stage"),
    [
        ("unet", "data.image.0.project.bias", "the image latents after the last step .* data.image.0.project.bias of"),
        ("encoder-image", "to_local.bias", "the image context tokens that the encoder gave .* to_local.bias of Dual"),
        ("codec-image", "decoder.0.weight", "the pixels that the codec decoded .* weight decoder.0.weight of LiteVAE"),
    ],
)
def test_broken_weights_are_named_in_an_image(pipe: Any, picture: Any, part: str, weight: str, stage: str) -> None:
    spoil(pipe.unet if part == "unet" else pipe.bank.parts[part], weight)
    with pytest.raises(ValueError, match=stage):
        pipe.image_variation(picture, **FAST)


def test_a_codec_says_that_it_encoded_nothing_finite(pipe: Any, picture: Any) -> None:
    spoil(pipe.bank.codecs["image"], "encoder.1.bias")
    for call in (
        lambda: pipe.encode_latent(picture),
        lambda: pipe.text_to_image("a", start=picture, fidelity=0.5, **FAST),
    ):
        with pytest.raises(ValueError, match="the image latents that the codec encoded are not finite"):
            call()


def test_latents_that_a_callback_gives_are_looked_at(tiny_pipeline: Any) -> None:
    def giving(latents: Any) -> Any:
        return lambda *_given: {"latents": latents}

    for latents, message in (
        (torch.full((1, 4, 4, 4), torch.nan), "the replacement latents are not finite"),
        (torch.zeros(2, 4, 4, 4), r"are \(2, 4, 4, 4\); they must be \(1, 4, 4, 4\)"),
    ):
        with pytest.raises(ValueError, match=message):
            tiny_pipeline.text_to_image("a", callback_on_step_end=giving(latents), **FAST)
    zeros = torch.zeros(1, 4, 4, 4)
    made = [
        tiny_pipeline.text_to_image("a", callback_on_step_end=giving(one), output="latent", **FAST).latents
        for one in (zeros, zeros.numpy())
    ]
    assert torch.equal(*made)


def test_weights_and_strengths_are_finite() -> None:
    tokens = torch.zeros(1, 2, 3)
    for bad in (float("nan"), float("inf"), -1.0):
        with pytest.raises(ValueError, match="weights that are finite and 0 or more"):
            shares([Context("text", tokens), Context("text", tokens, bad)])
        with pytest.raises(ValueError, match="strength of a part is"):
            join_tokens([(tokens, 1.0), (tokens, bad)])
        with pytest.raises(ValueError, match="weight of a text condition is"):
            Condition("text", "a", weight=bad)


def test_guidance_rescale_of_a_prediction_without_spread(pipe: Any) -> None:
    for name in ("out.weight", "out.bias"):
        torch.nn.init.zeros_(pipe.unet.data["image"][-1].get_parameter(name))  # as a fresh model is
    made = pipe.text_to_image("a cat", guidance_scale=3.0, guidance_rescale=0.7, **FAST)
    assert made.latents.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("how", ["global", "tokens", "statistics"])
def test_normalisation_of_half_precision(dtype: torch.dtype, how: str) -> None:
    tokens = torch.randn(4, 3, 8, generator=torch.Generator().manual_seed(0)) * 300
    tokens[:, 2] = 0
    tokens[:, :, 7] = 1
    wanted = Condition.from_tokens("image", tokens, how, reference=tokens / 300).tokens
    made = Condition.from_tokens("image", tokens.to(dtype), how, reference=(tokens / 300).to(dtype)).tokens
    assert made.dtype == dtype
    assert torch.allclose(made.float(), wanted, atol=0.05)
    with pytest.raises(ValueError, match="token 0 is zero"):
        Condition.from_tokens("image", torch.zeros(2, 8, dtype=dtype), "global")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("task", TASKS)
def test_every_task_in_half_precision(picture: Any, dtype: torch.dtype, task: str) -> None:
    pipe = build_tiny_pipeline(ALL, ALL).to(dtype)
    tone = torch.sin(torch.arange(RATE) / 5).numpy() / 2
    given = {"text": "a cat", "image": picture, "audio": Waveform(tone, RATE)}
    flow = TASKS[task].flow
    made = pipe.generate(flow.data, [Condition(name, given[name]) for name in flow.contexts], **FAST)
    assert made.latents.isfinite().all()
