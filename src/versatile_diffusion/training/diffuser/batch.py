"""A batch of one flow, on which the diffuser is trained."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from versatile_diffusion.diffuser.context import Context
from versatile_diffusion.tasks import Task


@dataclass(frozen=True)
class Batch:
    """Items of one flow: x0 and noise (B * n, ...), timesteps (B * n,), each item n times, next to each other; its
    contexts, with the tokens of B items; and the weight of their loss."""

    task: Task
    latent: Tensor
    noise: Tensor
    timestep: Tensor
    contexts: tuple[Context, ...]
    weight: float = 1.0

    @property
    def context(self) -> Context:
        """The context of a flow that has one."""
        (context,) = self.contexts
        return context
