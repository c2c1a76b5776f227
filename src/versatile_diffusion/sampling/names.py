"""Other names for arguments of `generate`, as people know them from diffusers and from image-to-image pipelines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

OTHER_NAMES = {"num_images_per_prompt": "num_outputs", "init_latent": "start", "output": "output_type"}
"""Other name to our own. `strength` besides, which is 1 - fidelity."""


def own_names(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options under our own names.

    Raises:
        ValueError: one thing is given under two names, or a strength that is not from 0 to 1.
    """
    own: dict[str, Any] = {}
    for name, value in options.items():
        if (ours := OTHER_NAMES.get(name, name)) in own:
            raise ValueError(f"{name} is another name of {' and '.join(_names_of(ours) - {name})}; give one of them")
        own[ours] = value
    strength = own.pop("strength", None)
    if strength is None:
        return own
    if own.get("fidelity"):
        raise ValueError("strength is 1 - fidelity; give one of them")
    if not isinstance(strength, int | float) or not 0 <= strength <= 1:
        raise ValueError(f"strength is {strength!r}; it must be a number from 0 (all is kept) to 1 (nothing)")
    if strength == 1 and own.get("repaint") is None:
        return own | {"start": None}
    return own | {"fidelity": round(1 - strength, 12)}


def _names_of(ours: str) -> set[str]:
    return {ours, *(other for other, own in OTHER_NAMES.items() if own == ours)}
