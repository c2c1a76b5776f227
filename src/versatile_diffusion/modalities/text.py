"""The text modality: strings; latents are one vector."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from versatile_diffusion.layers.attention import context_layers
from versatile_diffusion.layers.fc import fc_layer
from versatile_diffusion.layers.plan import Stage
from versatile_diffusion.modalities.base import Modality


def text_data_stream(
    plan: tuple[Stage, ...],
    *,
    time_width: int,
    norm_groups: int,
    width: int = 768,
    positions: int = 4,
    gain: float = 1.0,
) -> nn.ModuleList:
    """FC residual blocks for latents of `width` numbers, seen by context blocks as `positions` tokens.

    `gain` is the size at which a fresh stream begins. One that joins trained context streams should begin at the size
    that they are used to: much smaller, what they add would drown the latent.
    """
    options = {"width": width, "positions": positions, "time_width": time_width, "norm_groups": norm_groups}
    return nn.ModuleList(fc_layer(stage, gain=gain, **options) for stage in plan)


def text_context_stream(plan: tuple[Stage, ...], *, norm_groups: int, heads: int, width: int = 768) -> nn.ModuleList:
    """Context blocks for text tokens of `width` numbers."""
    return context_layers(plan, width=width, heads=heads, norm_groups=norm_groups)


def check_text(value: Any) -> str:
    """The text itself.

    Raises:
        ValueError: if it is not a string.
    """
    if not isinstance(value, str):
        raise ValueError(f"a text is a str, not {type(value).__name__}")
    return value


def shortened(text: str, fits: Callable[[str], bool]) -> str:
    """The text, without its last words until it fits."""
    words = text.split()
    while words and not fits(text):
        text = " ".join(words[:-1])
        words.pop()
    return text


TEXT = Modality(
    name="text",
    data_stream=text_data_stream,
    context_stream=text_context_stream,
    check=check_text,
    blanks={"empty": ""},
)
