"""Colour matching of outputs to an input image: checked, applied, recorded and replayed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from versatile_diffusion.choices import unknown
from versatile_diffusion.flow import Condition
from versatile_diffusion.reading import entry

if TYPE_CHECKING:
    from versatile_diffusion.pipeline.output import Output
    from versatile_diffusion.pipeline.replay import Resolve

COLOURS = "match_colours"


def check(method: str | None, conditions: Sequence[Condition]) -> None:
    """Raise ValueError for an unknown method, or if no condition is an image."""
    from versatile_diffusion.applications.variation import METHODS

    if method is not None and method not in METHODS:
        raise ValueError(unknown("method of colour matching", method, METHODS))
    if method is not None and not images_of(conditions):
        raise ValueError("colour matching needs an image input; none is given as an image")


def images_of(conditions: Sequence[Condition]) -> list[Any]:
    """Return the conditions given as images, not as tokens or latents."""
    from versatile_diffusion.records.embeddings import Embeddings

    values = (condition.value for condition in conditions if condition.modality == "image")
    return [value for value in values if value is not None and not isinstance(value, Embeddings)]


def match_to_input(output: Output, conditions: Sequence[Condition], method: str | None) -> Output:
    """Match the output's colours to the first image among the conditions; unchanged without a method."""
    return output if method is None else match(output, images_of(conditions)[0], method)


def match(output: Output, image: Any, method: str = "simple") -> Output:
    """Match the colours of an output to an image; recorded in its settings."""
    from versatile_diffusion.applications.variation import in_colours_of
    from versatile_diffusion.modalities.image import check_image
    from versatile_diffusion.records.record import record_of

    reference = check_image(image)
    values = [in_colours_of(value, reference, method) for value in output.images]
    record = {"method": method, "picture": record_of(image, reference)}
    return replace(output, values=values, settings=output.settings | {COLOURS: record})


def replay(output: Output, settings: Mapping[str, Any], resolve: Resolve | None = None) -> Output:
    """Apply the recorded colour matching to a replayed output; called by `applications.again.replay`."""
    from versatile_diffusion.modalities import MODALITIES
    from versatile_diffusion.modalities.image import check_image
    from versatile_diffusion.pipeline.replay import value_of

    image, method = entry(settings[COLOURS], "picture", Mapping), entry(settings[COLOURS], "method", str)
    if COLOURS not in MODALITIES[output.data].pair_options:
        raise ValueError(f"the settings are damaged: {COLOURS} is set for {output.data}, which has no colours")
    return match(output, value_of(image, check_image, resolve), method)
