"""Blending as in the 2023 demo: several images and a prompt, with image tokens concatenated into one context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from versatile_diffusion.diffuser.context import Context
from versatile_diffusion.numeric import number
from versatile_diffusion.sampling.focus import Focus, apply_focus, join_tokens


@dataclass(frozen=True)
class Picture:
    """One image of several.

    Args:
        tokens: its context tokens (B, L, D).
        strength: factor on its tokens.
        focus: focus level (0 semantics, 0.5 unchanged, 1 style), or a `Focus`.
    """

    tokens: Tensor
    strength: float = 1.0
    focus: Focus | float = 0.5


def app_contexts(text: Tensor | None, images: Sequence[Picture], text_strength: float = 0.5) -> list[Context]:
    """Return the contexts that the 2023 demo passes to the sampler: the text, weighted by its strength, then all
    images as one context with the remaining weight. A text of strength 0 is dropped; images of weight 0 are kept.

    Args:
        text: tokens (B, L, D) or None.
        images: images; may be empty if there is a text.
        text_strength: weight of the text, 0 to 1.

    Raises:
        ValueError: strength out of range, or no context left.
    """
    text_strength = number("text_strength", text_strength, most=1)
    joined = join_tokens([(apply_focus(p.tokens, p.focus), p.strength) for p in images]) if images else None
    if text is None and joined is None:
        raise ValueError("no context; give a text or an image")
    if text is None or joined is None:
        return [Context("image", joined)] if joined is not None else [Context("text", text)]  # type: ignore[arg-type]
    pictured = Context("image", joined, 1 - text_strength)
    return [Context("text", text, text_strength), pictured] if text_strength else [pictured]
