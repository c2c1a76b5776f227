"""Diffusers of random weights and of any size, ours and diffusers' own with the very same tensors, for timing."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import nn

from versatile_diffusion import Context, MultiFlowUNet
from versatile_diffusion.interop.names.keymap import find_official, to_official
from versatile_diffusion.interop.names.unet import DIFFUSERS, diffusers_rules
from versatile_diffusion.interop.official import FULL_SIZE, diffuser_config
from versatile_diffusion.interop.write.folders import unet_config

WIDTH = FULL_SIZE["model_channels"]
TOKENS = 77
CHANNELS = FULL_SIZE["image_channels"]


def diffuser(data: list[str], contexts: list[str], width: int = WIDTH, dtype: Any = torch.float32) -> MultiFlowUNet:
    """One with these streams, `width` channels at its first level (320 is full size), and small random weights."""
    options = diffuser_config({**FULL_SIZE, "model_channels": width})
    for kind, wanted in (("data_streams", data), ("context_streams", contexts)):
        options[kind] = {name: options[kind][name] for name in wanted}
    with torch.device("meta"):
        unet = MultiFlowUNet(**options)
    return filled(nn.Module.to(unet, dtype).to_empty(device="cpu").eval())


def filled(network: Any) -> Any:
    """The network with small random numbers in its weights, which repeat: time needs no more."""
    numbers = torch.randn(1 << 22, generator=torch.Generator().manual_seed(0)) / 50
    for tensor in (*network.parameters(), *network.buffers()):
        flat = tensor.detach().view(-1)
        for begin in range(0, len(flat), len(numbers)):
            part = flat[begin : begin + len(numbers)]
            part.copy_(numbers[: len(part)])
    for module in network.modules():
        if isinstance(module, nn.GroupNorm | nn.LayerNorm):
            nn.init.ones_(module.weight)
    return network


def theirs(unet: MultiFlowUNet, side: int) -> UNet2DConditionModel:
    """diffusers' network with the weights of ours, which must have the image streams alone: no memory of its own."""
    rules = diffusers_rules(unet.plan, DIFFUSERS["image_unet"])
    state = {find_official(name, rules): tensor for name, tensor in to_official(unet.state_dict()).items()}
    with torch.device("meta"):
        network = UNet2DConditionModel.from_config(unet_config(unet, "image_unet", side))
    network.load_state_dict(state, assign=True)
    return network.eval()


def inputs(unet: MultiFlowUNet, batch: int, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents (batch, 4, side, side) and context tokens (batch, 77, 768) in a network's dtype."""
    generator = torch.Generator().manual_seed(1)
    shapes = ((batch, CHANNELS, side, side), (batch, TOKENS, FULL_SIZE["context_dim"]))
    latent, tokens = (torch.randn(shape, generator=generator).to(unet.device, unet.dtype) for shape in shapes)
    return latent, tokens


def guided_step(unet: MultiFlowUNet, latent: torch.Tensor, tokens: torch.Tensor) -> Any:
    """One step of ours, `run(deep=None)`: the keys and values were computed before, as in every run of ours."""
    with torch.no_grad():
        contexts = unet.project([Context("image", tokens)])
    return lambda **options: unet(latent, 500, contexts, data="image", **options)
