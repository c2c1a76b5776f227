"""Contexts that guide a pass through the diffuser, and the ways to mix several of them (paper section 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from versatile_diffusion.layers.attention import KeyValue

Hidden = Float[Tensor, "b c h w"]
Block = Callable[..., Tensor]


@dataclass(frozen=True)
class Context:
    """Tokens (B, L, D) for one context stream, and their share among all contexts.

    Args:
        stream: name of the context stream that reads the tokens.
        tokens: (B, L, D). They may be those of fewer items than there are latents: with n times as many latents, each
            item's tokens guide n of them, next to each other.
        weight: 0 or more; only its size beside the other weights counts.
        region: (H, W), how much it acts where on the grid of what is generated; everywhere alike where left out. It is
            resized to the grid of each level.
        key_values: per context block, keys and values of the tokens; `MultiFlowUNet.project` fills it in.
    """

    stream: str
    tokens: Tensor
    weight: float = 1.0
    region: Float[Tensor, "rows columns"] | None = None
    key_values: tuple[KeyValue, ...] | None = field(default=None, repr=False)

    def guide(self, block: Block, h: Hidden, index: int) -> Hidden:
        """The output of context block number `index`."""
        return block(h, self.tokens, None if self.key_values is None else self.key_values[index])


Mix = Callable[[Sequence[Block], Hidden, Sequence[Context], int], Hidden]


def shares(contexts: Sequence[Context]) -> list[float]:
    """Weights of the contexts, normalised to one.

    Raises:
        ValueError: if there is no context, a weight is negative, or all weights are zero.
    """
    weights = [float(context.weight) for context in contexts]
    if not weights or min(weights) < 0 or sum(weights) == 0:
        raise ValueError(f"contexts need weights of 0 or more, at least one of them above 0; got {weights}")
    return [weight / sum(weights) for weight in weights]


def share_maps(contexts: Sequence[Context], size: Sequence[int]) -> list[Float[Tensor, "rows columns"]]:
    """Share of each context at each position of a grid of `size` (rows, columns): weight times region, normalised to
    one over the contexts. All shares are 0 where no context acts."""
    whole = next(context.region.new_ones(tuple(size)) for context in contexts if context.region is not None)
    weights = torch.stack([whole if c.region is None else _resized(c.region, size) for c in contexts])
    weights = weights * whole.new_tensor([context.weight for context in contexts])[:, None, None]
    total = weights.sum(0)
    return list(torch.where(total > 0, weights / total, 0))


def _resized(region: Float[Tensor, "rows columns"], size: Sequence[int]) -> Tensor:
    """Mean over the area of each cell, so that shares which sum to one still do."""
    return F.interpolate(region[None, None], tuple(size), mode="area")[0, 0]


def mix_by_attention(blocks: Sequence[Block], h: Hidden, contexts: Sequence[Context], index: int) -> Hidden:
    """Average of the blocks' outputs by share: attention-level mixing. A context of weight 0 costs nothing.

    With regions the shares are those of each position; where no context acts, h passes unchanged.
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
    """One context for each context block, for the whole batch: layer-level mixing.

    Args:
        choices: which context each block takes, by number; the same for every pass.
        generator: draws the choices instead, anew for each pass, with the weights as probabilities.

    `plan` holds the choices of the latest pass; `MixByLayer(choices=mix.plan)` repeats it.
    """

    def __init__(self, choices: Sequence[int] | None = None, generator: torch.Generator | None = None):
        if (choices is None) == (generator is None):
            raise ValueError("mixing by layer takes either choices or a generator, exactly one of the two")
        self.generator = generator
        self.plan = list(choices or ())

    def __call__(self, blocks: Sequence[Block], h: Hidden, contexts: Sequence[Context], index: int) -> Hidden:
        if self.generator is not None:
            probabilities = torch.tensor(shares(contexts), device=self.generator.device)
            self.plan[index:] = [int(torch.multinomial(probabilities, 1, generator=self.generator))]
        if index >= len(self.plan):
            raise ValueError(f"{len(self.plan)} choices given; this diffuser has a context block number {index}")
        choice = self.plan[index]
        return contexts[choice].guide(blocks[choice], h, index)

    def __repr__(self) -> str:
        return f"MixByLayer(choices={self.plan})"
