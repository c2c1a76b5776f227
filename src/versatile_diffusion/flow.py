"""Flows (what is generated from what), and conditions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from versatile_diffusion.numeric import is_number, number, plain, settle
from versatile_diffusion.printable import shown
from versatile_diffusion.tokens import normalise_tokens

if TYPE_CHECKING:  # the command line reads the task table, and must not import torch
    import torch

    from versatile_diffusion.sampling.focus import Focus

MOST_GUIDANCE = 1000


@dataclass(frozen=True)
class Flow:
    """A flow of the model (paper section 3.2): the generated modality and the conditioning modalities."""

    data: str
    contexts: tuple[str, ...]

    def __str__(self) -> str:
        return f"{'+'.join(self.contexts)}->{self.data}"


@dataclass(frozen=True)
class Condition:
    """A condition: a raw value, or precomputed context tokens.

    Args:
        modality: context stream that reads it, e.g. `"text"`.
        value: raw value (string, image); omit if `tokens` is given.
        tokens: context tokens (L, D) or (B, L, D) instead of `value`; arrays are accepted.
        weight: weight relative to the other conditions; 0 drops it.
        mask: part of the value to use (for images a path, an "L" image or an (H, W) array of any size; white keeps,
            grey keeps in part); one for all values, or a list.
        guidance_scale: guidance scale of this condition; None uses the run's.
        negative: negative value instead of the task's null context: a raw value, one per prompt, or tokens.
        focus: focus on semantics or style: a level (0 semantics, 0.5 unchanged, 1 style), or a `sampling.focus.Focus`.
        start, end: active part of the trajectory, 0 (noise) to 1 (done).
        region: where it applies on the canvas: a mask as above, or a box (left, top, right, bottom) as fractions of the
            canvas.

    Raises:
        ValueError: a value out of range, or not exactly one of value and tokens.
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
        if not isinstance(self.modality, str):
            raise ValueError(f"the modality of a condition is {shown(self.modality)}; it must be a name such as 'text'")
        if (self.value is None) == (self.tokens is None):
            raise ValueError(f"a {self.modality} condition needs exactly one of value and tokens")
        mine = f"of a {self.modality} condition"
        settled = {"weight": number(f"weight {mine}", self.weight), "start": plain(self.start), "end": plain(self.end)}
        if self.guidance_scale is not None:
            settled["guidance_scale"] = number(f"guidance_scale {mine}", self.guidance_scale, most=MOST_GUIDANCE)
        settle(self, **settled)
        if not (is_number(self.start) and is_number(self.end) and 0 <= self.start < self.end <= 1):
            raise ValueError(
                f"start and end {mine} are {shown(self.start)} and {shown(self.end)}; they must be "
                f"0 <= start < end <= 1"
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
        """Create a condition from external context tokens, e.g. predicted from brain signals.

        Args:
            modality: context stream that reads them.
            tokens: (L, D) or (B, L, D) at any scale; arrays are accepted.
            normalise: `"global"` divides by the norm of token 0 as in the paper, `"tokens"` scales each token to its
                reference norm, `"statistics"` matches each entry's mean and standard deviation over the batch.
            reference: tokens (N, L, D) of the encoder as reference; not needed for `"global"`.
            options: other fields, e.g. `weight`.

        Raises:
            ValueError: see `versatile_diffusion.tokens.normalise_tokens`.
        """
        return cls(modality, tokens=normalise_tokens(tokens, normalise, reference), **options)
