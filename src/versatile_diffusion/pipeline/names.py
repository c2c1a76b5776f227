"""Aliases of arguments of `generate`, known from diffusers and image-to-image pipelines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from versatile_diffusion.controls import REQUEST
from versatile_diffusion.numeric import is_number, plain
from versatile_diffusion.printable import shown

OTHER_NAMES = {"num_images_per_prompt": "num_outputs", "init_latent": "start", "output": "output_type"}
"""Alias to argument name. In addition, `strength` is 1 - fidelity."""


OF_A_RUN = (
    "seed",
    "generator",
    "latents",
    "output_type",
    "callback_on_step_end",
    "callback_on_step_end_tensor_inputs",
    "return_dict",
)
"""Arguments of `generate` that are not fields of a request."""


def arguments() -> list[str]:
    """Return all names under which `generate` accepts an option."""
    return sorted({*REQUEST, *OF_A_RUN, *OTHER_NAMES, "strength"})


def own_names(options: Mapping[str, Any]) -> dict[str, Any]:
    """Replace aliases by our own names.

    Raises:
        ValueError: an argument given under two names, or a strength outside 0 to 1.
    """
    own: dict[str, Any] = {}
    for name, value in options.items():
        if (ours := OTHER_NAMES.get(name, name)) in own:
            raise ValueError(f"{name} is an alias of {' and '.join(_names_of(ours) - {name})}; give one of them")
        own[ours] = value
    strength = own.pop("strength", None)
    if strength is None:
        return own
    if own.get("fidelity"):
        raise ValueError("strength is 1 - fidelity; give one of them")
    strength = plain(strength)
    if not is_number(strength) or not 0 <= strength <= 1:
        raise ValueError(
            f"strength is {shown(strength)}; it must be a number from 0 (keeps the image) to 1 (ignores it)"
        )
    if strength == 1 and own.get("repaint") is None:
        return own | {"start": None}
    return own | {"fidelity": round(1 - strength, 12)}


def _names_of(ours: str) -> set[str]:
    return {ours, *(other for other, own in OTHER_NAMES.items() if own == ours)}
