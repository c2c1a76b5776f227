"""Pictures in the colours of the picture that they were made from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from versatile_diffusion.choices import unknown
from versatile_diffusion.flow import Condition

if TYPE_CHECKING:
    from versatile_diffusion.sampling.output import Output


def check(method: str | None, conditions: Sequence[Condition]) -> None:
    """ValueError if there is no such method, or no picture whose colours could be taken."""
    from versatile_diffusion.applications.variation import METHODS

    if method is not None and method not in METHODS:
        raise ValueError(unknown("method of colour matching", method, METHODS))
    if method is not None and not pictures(conditions):
        raise ValueError("the colours of a picture are to be matched, and none is given as a picture")


def matched(output: Output, conditions: Sequence[Condition], method: str | None) -> Output:
    """The output in the colours of the first picture among the conditions; its settings say so."""
    from versatile_diffusion.applications import variation

    return output if method is None else variation.matched(output, pictures(conditions)[0], method)


def pictures(conditions: Sequence[Condition]) -> list[Any]:
    """Those that are given as such, not as tokens or latents."""
    from versatile_diffusion.sampling.embeddings import Embeddings

    values = (condition.value for condition in conditions if condition.modality == "image")
    return [value for value in values if value is not None and not isinstance(value, Embeddings)]
