"""Contexts that condition the diffuser, and mixing of several contexts (paper section 3.3)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from versatile_diffusion.layers.attention import KeyValue
from versatile_diffusion.numeric import is_number, plain
from versatile_diffusion.printable import shown

Hidden = Float[Tensor, "b c h w"]
Block = Callable[..., Tensor]


@dataclass(frozen=True)
class Context:
    """Tokens (B, L, D) for one context stream, with their weight.

    Args:
        stream: context stream that reads the tokens.
        tokens: (B, L, D). The number of latents may be a multiple n of the number of items; then each item's tokens
            condition n adjacent latents.
        weight: 0 or more, relative to the other weights.
        region: (H, W) spatial weight on the grid of the generated latent; None is uniform. Resized to each level.
        key_values: keys and values of the tokens per context block; set by `MultiFlowUNet.project`.
    """

    stream: str
    tokens: Tensor
    weight: float = 1.0
    region: Float[Tensor, "rows columns"] | None = None
    key_values: tuple[KeyValue, ...] | None = field(default=None, repr=False)

    def guide(self, block: Block, h: Hidden, index: int) -> Hidden:
        """Return the output of context block `index`."""
        return block(h, self.tokens, None if self.key_values is None else self.key_values[index])


Mix = Callable[[Sequence[Block], Hidden, Sequence[Context], int], Hidden]


def shares(contexts: Sequence[Context]) -> list[float]:
    """Return the weights normalised to sum one.

    Raises:
        ValueError: no context, a negative weight, or only zero weights.
    """
    weights = scale_weights(contexts)
    return [weight / sum(weights) for weight in weights]


def scale_weights(contexts: Sequence[Context]) -> list[float]:
    """Scale the weights by a power of two (exactly), so that the largest is in 0.5..1 and no sum overflows single
    precision.

    Raises:
        ValueError: see `shares`.
    """
    weights = [plain(context.weight) for context in contexts]
    if not weights or not all(is_number(weight) and weight >= 0 for weight in weights) or not any(weights):
        raise ValueError(
            f"contexts need weights that are finite and 0 or more, at least one of them above 0; got {shown(weights)}"
        )
    exponent = math.frexp(max(weights))[1]
    return [math.ldexp(weight, -exponent) for weight in weights]


def share_maps(contexts: Sequence[Context], size: Sequence[int]) -> list[Float[Tensor, "rows columns"]]:
    """Return each context's share at each position of a grid of `size` (rows, columns): weight times region,
    normalised over the contexts. All shares are 0 where no context applies."""
    whole = next(context.region.new_ones(tuple(size)) for context in contexts if context.region is not None)
    weights = torch.stack([whole if c.region is None else _resize(c.region, size) for c in contexts])
    weights = weights * whole.new_tensor(scale_weights(contexts))[:, None, None]
    total = weights.sum(0)
    return list(torch.where(total > 0, weights / total, 0))


def _resize(region: Float[Tensor, "rows columns"], size: Sequence[int]) -> Tensor:
    """Average over the area of each cell, which preserves sums of shares."""
    return F.interpolate(region[None, None], tuple(size), mode="area")[0, 0]


def mix_by_attention(blocks: Sequence[Block], h: Hidden, contexts: Sequence[Context], index: int) -> Hidden:
    """Average the blocks' outputs by share: attention-level mixing. Contexts of weight 0 are skipped.

    With regions, shares are per position; h is unchanged where no context applies.
    """
    acting = [row for row in zip(blocks, contexts, shares(contexts), strict=True) if row[2] > 0]
    if all(context.region is None for _, context, _ in acting):
        parts = [context.guide(block, h, index) * share for block, context, share in acting]
        return sum(parts[1:], start=parts[0])
    maps = share_maps([context for _, context, _ in acting], h.shape[-2:])
    moves = [
        (context.guide(block, h, index) - h) * share.to(h)
        for (block, context, _), share in zip(acting, maps, strict=True)
    ]
    return sum(moves, start=h)


class MixByLayer:
    """Layer-level mixing: one context per context block, for the whole batch.

    Args:
        choices: context index of each block, the same in every pass.
        generator: draws the choices anew in each pass, with the weights as probabilities.

    `plan` has the choices of the latest pass; `MixByLayer(choices=mix.plan)` repeats it.
    """

    def __init__(self, choices: Sequence[int] | None = None, generator: torch.Generator | None = None):
        if (choices is None) == (generator is None):
            raise ValueError("layer mixing needs exactly one of choices and generator")
        self.generator = generator
        self.plan = list(choices or ())

    def __call__(self, blocks: Sequence[Block], h: Hidden, contexts: Sequence[Context], index: int) -> Hidden:
        if self.generator is not None:
            probabilities = torch.tensor(shares(contexts), device=self.generator.device)
            self.plan[index:] = [int(torch.multinomial(probabilities, 1, generator=self.generator))]
        if index >= len(self.plan):
            raise ValueError(
                f"{len(self.plan)} choices given; this diffuser has more context blocks (block {index} has none)"
            )
        choice = self.plan[index]
        return contexts[choice].guide(blocks[choice], h, index)

    def __repr__(self) -> str:
        return f"MixByLayer(choices={self.plan})"
