"""What is generated from what: flows, and the conditions a user gives."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from versatile_diffusion.tokens import normalised

if TYPE_CHECKING:  # the command line reads the table of tasks, and must not wait for torch
    import torch

    from versatile_diffusion.sampling.focus import Focus

MOST_GUIDANCE = 1000


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
        weight: share of this condition among all; shares are normalised to one, and 0 leaves it out.
        mask: which part of the value counts (images: a path, an "L" picture or an (H, W) array of any size, white
            keeps, grey counts in part); one for all values, or a list.
        guidance_scale: how closely to follow this condition; that of the whole run where left out.
        negative: what to keep away from in place of the task's null context: a raw value, one per prompt, or tokens.
        focus: what of it counts, semantics or style: a position of the dial (0 semantics, 0.5 as it is, 1 style), or a
            `sampling.focus.Focus`.
        start, end: shares of the trajectory, 0 (noise) to 1 (done), between which it acts.
        region: where it acts on the canvas of what is generated: a mask as above, or a box (left, top, right, bottom)
            in shares of the canvas.

    Raises:
        ValueError: a number is out of its range, or not exactly one of value and tokens is given.
    """

    modality: str
    value: Any = None
    tokens: torch.Tensor | None = None
    weight: float = 1.0
    mask: Any = None
    guidance_scale: float | None = None
    negative: Any = None
    focus: float | Focus | None = None
    start: float = 0.0
    end: float = 1.0
    region: Any = None

    def __post_init__(self) -> None:
        if (self.value is None) == (self.tokens is None):
            raise ValueError(f"a {self.modality} condition takes either value or tokens, exactly one of the two")
        mine = f"of a {self.modality} condition"
        if not 0 <= self.weight < math.inf:
            raise ValueError(f"weight {mine} is {self.weight}; it must be a number of 0 or more")
        if self.guidance_scale is not None and not 0 <= self.guidance_scale <= MOST_GUIDANCE:
            raise ValueError(f"guidance_scale {mine} is {self.guidance_scale}; it must be from 0 to {MOST_GUIDANCE}")
        if not 0 <= self.start < self.end <= 1:
            raise ValueError(
                f"start and end {mine} are {self.start} and {self.end}; they must be 0 <= start < end <= 1"
            )

    @classmethod
    def from_tokens(
        cls,
        modality: str,
        tokens: torch.Tensor,
        normalise: str | None = None,
        *,
        reference: torch.Tensor | None = None,
        **options: Any,
    ) -> Condition:
        """A condition of context tokens made elsewhere, such as those predicted from brain signals.

        Args:
            modality: which context stream reads them.
            tokens: (L, D) or (B, L, D) of any scale; arrays are taken, too.
            normalise: `"global"` divides by the norm of token 0 as the paper does, `"tokens"` gives each token its
                typical norm, `"statistics"` gives each entry its typical mean and standard deviation over the batch.
            reference: tokens (N, L, D) of the encoder that say what is typical; `"global"` does without.
            options: the other fields, such as `weight`.

        Raises:
            ValueError: see `versatile_diffusion.tokens.normalised`.
        """
        return cls(modality, tokens=normalised(tokens, normalise, reference), **options)
