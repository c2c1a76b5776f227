"""Passes through the diffuser as values: a prediction asks for them, and whoever answers may run several as one.

The network takes a timestep for each item, so passes of different runs, at different steps, can share a batch. An item
is the same in any batch up to rounding (see `sampling/seeds.py`).
"""

from __future__ import annotations

from collections.abc import Generator, Hashable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from versatile_diffusion.diffuser.context import Context, Mix, MixByLayer, mix_by_attention
from versatile_diffusion.diffuser.deep import Deep
from versatile_diffusion.diffuser.unet import MultiFlowUNet


@dataclass(frozen=True)
class Pass:
    """One call of the diffuser; see `MultiFlowUNet.forward`.

    Args:
        latent: (B, ...).
        timestep: (B,).
        contexts: the conditions, with keys and values (`MultiFlowUNet.project`).
        data: the data stream to run.
        mix: how several contexts act together.
        deep: keeps the output of the deep stages for later passes of the same trajectory.
        unet: the diffuser to run, where it is another than that of whoever answers.
    """

    latent: Tensor
    timestep: Tensor
    contexts: Sequence[Context]
    data: str
    mix: Mix = mix_by_attention
    deep: Deep | None = None
    unet: MultiFlowUNet | None = None

    @property
    def kind(self) -> Hashable:
        """Equal for passes that can be one batch; unique where a pass has to be alone.

        Alone are those whose contexts act in a region, mixing by layer (its choices are made for a whole batch), tokens
        of fewer items than there are latents, and passes that keep their deep stages.
        """
        alone = (
            self.mix is not mix_by_attention
            or self.deep is not None
            or any(
                c.region is not None or c.key_values is None or len(c.tokens) != len(self.latent) for c in self.contexts
            )
        )
        if alone:
            return id(self)
        contexts = tuple((c.stream, c.weight, c.tokens.shape[1:]) for c in self.contexts)
        return id(self.unet), self.data, self.latent.shape[1:], self.latent.dtype, self.latent.device, contexts

    @property
    def divisible(self) -> bool:
        """Whether some of its items can be run without the others."""
        drawn = isinstance(self.mix, MixByLayer) and self.mix.generator is not None
        return (
            not drawn
            and self.deep is None
            and all(len(context.tokens) == len(self.latent) for context in self.contexts)
        )

    def items(self, chosen: slice) -> Pass:
        """The same for some of the items."""
        contexts = [_items(context, chosen) for context in self.contexts]
        return replace(self, latent=self.latent[chosen], timestep=self.timestep[chosen], contexts=contexts)

    def run(self, unet: MultiFlowUNet) -> Tensor:
        """The network's output (B, ...)."""
        unet = unet if self.unet is None else self.unet
        return unet(self.latent, self.timestep, self.contexts, data=self.data, mix=self.mix, deep=self.deep)


Asking = Generator[Pass, Tensor, Tensor]
"""Asks for passes one after the other, is sent the output of each, and returns a prediction."""


def answer_passes(asking: Asking, unet: MultiFlowUNet) -> Tensor:
    """A prediction whose passes are run one by one."""
    output = None
    while True:
        try:
            output = asking.send(output).run(unet)  # type: ignore[arg-type]
        except StopIteration as end:
            prediction: Tensor = end.value
            return prediction


def merge_passes(passes: Sequence[Pass]) -> Pass:
    """Passes of one kind as one, their items in the same order."""
    if len(passes) == 1:
        return passes[0]
    first = passes[0]
    contexts = [_merge_contexts(same) for same in zip(*(one.contexts for one in passes), strict=True)]
    latent, timestep = torch.cat([one.latent for one in passes]), torch.cat([one.timestep for one in passes])
    return replace(first, latent=latent, timestep=timestep, contexts=contexts)


def _items(context: Context, chosen: slice) -> Context:
    key_values = context.key_values and tuple((keys[chosen], values[chosen]) for keys, values in context.key_values)
    return replace(context, tokens=context.tokens[chosen], key_values=key_values)


def _merge_contexts(same: Sequence[Context]) -> Context:
    """One context of several runs as one of all their items."""
    blocks = zip(*(c.key_values or () for c in same), strict=True)
    key_values = tuple((torch.cat([k for k, _ in block]), torch.cat([v for _, v in block])) for block in blocks)
    return replace(same[0], tokens=torch.cat([c.tokens for c in same]), key_values=key_values)
