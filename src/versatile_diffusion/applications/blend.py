"""Several pictures and a text as the 2023 app combines them: pictures joined along their tokens into one context."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from versatile_diffusion.diffuser.context import Context
from versatile_diffusion.sampling.focus import Focus, apply_focus, join_tokens


@dataclass(frozen=True)
class Picture:
    """One picture among several.

    Args:
        tokens: its context (B, L, D).
        strength: what its tokens are multiplied by.
        focus: what of it counts: a position of the dial (0 semantics, 0.5 as it is, 1 style), or a `Focus`.
    """

    tokens: Tensor
    strength: float = 1.0
    focus: Focus | float = 0.5


def app_contexts(text: Tensor | None, pictures: Sequence[Picture], text_strength: float = 0.5) -> list[Context]:
    """The contexts that the 2023 app hands to the sampler: the text with its strength as its share,
    then all pictures as one context with the rest. A text of no strength is left out.

    Args:
        text: tokens (B, L, D), or None.
        pictures: may be empty where there is a text.
        text_strength: share of the text, 0 to 1.

    Raises:
        ValueError: the strength is out of range, or nothing is left that guides.
    """
    if not 0 <= text_strength <= 1:
        raise ValueError(f"text_strength is {text_strength}; it must be from 0 to 1")
    joined = join_tokens([(apply_focus(p.tokens, p.focus), p.strength) for p in pictures]) if pictures else None
    if text is None and joined is None:
        raise ValueError("neither a text nor a picture guides; give at least one")
    if text is None or joined is None:
        return [Context("image", joined)] if joined is not None else [Context("text", text)]  # type: ignore[arg-type]
    both = [Context("text", text, text_strength), Context("image", joined, 1 - text_strength)]
    return [context for context in both if context.weight]
