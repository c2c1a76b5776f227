"""A training batch of one flow."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from versatile_diffusion.diffuser.context import Context
from versatile_diffusion.tasks import Task


@dataclass(frozen=True)
class Batch:
    """B items of one flow at n noise levels each: x0 and noise (B * n, ...) and timesteps (B * n,), with the n levels
    of an item adjacent; contexts with the tokens of B items; and the weight of the loss."""

    task: Task
    latent: Tensor
    noise: Tensor
    timestep: Tensor
    contexts: tuple[Context, ...]
    weight: float = 1.0

    @property
    def context(self) -> Context:
        """The context of a flow with a single one."""
        (context,) = self.contexts
        return context
