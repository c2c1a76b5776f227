"""Streams of vectors, whose hidden state outgrows float16."""

from __future__ import annotations

import pytest
import torch

from tests.tiny import tiny_unet
from versatile_diffusion.diffuser.context import Context
from versatile_diffusion.layers.wide import WideLinear

STEM, LATER = 1e4, 4  # how much larger the weights are: the hidden state is then beyond 65504


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_hidden_state_beyond_float16_gives_what_float32_gives(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    unet = tiny_unet(32, 24).eval()
    for weight in unet.parameters():
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.05)
    unet.data["text"][0].project.weight.data *= STEM
    for layer in unet.data["text"].modules():
        if isinstance(layer, WideLinear):
            layer.weight.data *= LATER
    tokens, latent = torch.randn(2, 5, 24), torch.randn(2, 32)
    largest: list[float] = []
    for block in unet.data["text"]:
        block.register_forward_hook(lambda _layer, _given, made: largest.append(float(made.abs().max())))
    with torch.no_grad():
        wanted = unet(latent, 500, [Context("text", tokens)], data="text")
        assert max(largest) > 1.5 * torch.finfo(torch.float16).max
        unet.to(dtype)
        made = unet(latent.to(dtype), 500, [Context("text", tokens.to(dtype))], data="text")
    assert made.dtype == dtype
    assert (made.float() - wanted).abs().max() < 0.05 * wanted.abs().max()
