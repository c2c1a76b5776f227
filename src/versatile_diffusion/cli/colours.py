"""Pictures in the colours of the picture that they were made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from versatile_diffusion.flow import Condition

if TYPE_CHECKING:
    from versatile_diffusion.sampling.output import Output

KEY = "match_colours"


def check(method: str | None, conditions: Sequence[Condition]) -> None:
    """ValueError if there is no such method, or no picture whose colours could be taken."""
    from versatile_diffusion.applications.variation import METHODS

    if method is not None and method not in METHODS:
        raise ValueError(f"unknown method of colour matching {method!r}; allowed: {', '.join(METHODS)}")
    if method is not None and not any(_is_picture(condition) for condition in conditions):
        raise ValueError("the colours of a picture are to be matched, and none is given as a file")


def matched(output: Output, conditions: Sequence[Condition], method: str | None) -> Output:
    """The output in the colours of the first picture among the conditions; its settings say so."""
    if method is None:
        return output
    return _matched(output, next(condition.value for condition in conditions if _is_picture(condition)), method)


def again(output: Output, record: Mapping[str, Any], resolve: Callable[[dict[str, Any]], Any]) -> Output:
    """The same for a saved record of an output that was made again."""
    if KEY not in record:
        return output
    values = (v for c in record["conditions"] if c["modality"] == "image" for v in c.get("values", ()))
    return _matched(output, resolve(next(values)), record[KEY])


def _is_picture(condition: Condition) -> bool:
    return condition.modality == "image" and isinstance(condition.value, str)


def _matched(output: Output, picture: Any, method: str) -> Output:
    from versatile_diffusion.applications.variation import in_colours_of
    from versatile_diffusion.modalities.image import check_image

    reference = check_image(picture)
    values = [in_colours_of(value, reference, method) for value in output.values]
    return replace(output, values=values, settings={**output.settings, KEY: method})
