"""Colour matching of generated images to an input image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from versatile_diffusion.choices import unknown
from versatile_diffusion.flow import Condition

if TYPE_CHECKING:
    from versatile_diffusion.pipeline.output import Output


def check(method: str | None, conditions: Sequence[Condition]) -> None:
    """Raise ValueError for an unknown method, or if no condition is an image."""
    from versatile_diffusion.applications.variation import METHODS

    if method is not None and method not in METHODS:
        raise ValueError(unknown("method of colour matching", method, METHODS))
    if method is not None and not pictures(conditions):
        raise ValueError("colour matching needs an image input; none is given as an image")


def matched(output: Output, conditions: Sequence[Condition], method: str | None) -> Output:
    """Match the output's colours to the first image among the conditions; recorded in its settings."""
    from versatile_diffusion.applications import variation

    return output if method is None else variation.matched(output, pictures(conditions)[0], method)


def pictures(conditions: Sequence[Condition]) -> list[Any]:
    """Return the conditions given as images, not as tokens or latents."""
    from versatile_diffusion.records.embeddings import Embeddings

    values = (condition.value for condition in conditions if condition.modality == "image")
    return [value for value in values if value is not None and not isinstance(value, Embeddings)]
