"""What is generated from what: flows, and the conditions a user gives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the command line reads the table of tasks, and must not wait for torch
    import torch


@dataclass(frozen=True)
class Flow:
    """One way through the model (paper section 3.2): the modality generated and the modalities that guide it."""

    data: str
    contexts: tuple[str, ...]

    def __str__(self) -> str:
        return f"{'+'.join(self.contexts)}->{self.data}"


@dataclass(frozen=True)
class Condition:
    """One thing that guides a generation: a raw value, or context tokens made elsewhere.

    Args:
        modality: which context stream reads it, e.g. `"text"`.
        value: the raw value (a string, a picture); leave out when `tokens` is given.
        tokens: context tokens (L, D) or (B, L, D), used in place of `value`.
        weight: share of this condition among all; shares are normalised to one.
        mask: which part of the value counts (images: an "L" picture or (H, W) array, white keeps).
    """

    modality: str
    value: Any = None
    tokens: torch.Tensor | None = None
    weight: float = 1.0
    mask: Any = None

    def __post_init__(self) -> None:
        if (self.value is None) == (self.tokens is None):
            raise ValueError(f"a {self.modality} condition takes either value or tokens, exactly one of the two")
        if self.weight < 0:
            raise ValueError(f"weight of a {self.modality} condition is {self.weight}; it must be 0 or more")
