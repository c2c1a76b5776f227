"""Disentanglement of style and semantics (the paper's figure 9): levels of one picture, and the style of one with the
semantics of another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from versatile_diffusion.choices import unknown
from versatile_diffusion.flow import Condition
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.sampling.focus import CONVENTIONS, Focus, Weights, weighed
from versatile_diffusion.sampling.output import Output, record_of
from versatile_diffusion.sampling.replay import Resolve, arguments_of, value_of

if TYPE_CHECKING:
    from versatile_diffusion.sampling.pipeline import VersatileDiffusionPipeline

RESTYLE = "restyle"
LEVELS = 5
"""Variations in a strip: from all semantics over the plain variation to all style."""


@dataclass(frozen=True)
class Step:
    """One place in a strip: the focus, and the variations made under it."""

    focus: Focus
    output: Output


def levels(convention: str = "paper", count: int = LEVELS, **options: Any) -> list[Focus]:
    """Evenly spaced levels of a convention from the lowest to the highest; -2 to 2 for the paper's.

    Args:
        convention: a key of `CONVENTIONS`.
        count: how many, 2 or more.
        options: other fields of `Focus`, such as `drop_global`.

    Raises:
        ValueError: no such convention, fewer than 2, or levels that it has not.
    """
    if convention not in CONVENTIONS:
        raise ValueError(unknown("convention", convention, CONVENTIONS))
    if count < 2:
        raise ValueError(f"a strip has 2 levels or more, not {count}")
    least, most = CONVENTIONS[convention].levels
    spread = [least + (most - least) * k / (count - 1) for k in range(count)]
    return [Focus(int(level) if level == int(level) else level, convention, **options) for level in spread]


def strip(
    pipe: VersatileDiffusionPipeline,
    image: Any,
    focuses: Sequence[Focus] | None = None,
    *,
    mask: Any = None,
    seed: int | None = None,
    **options: Any,
) -> list[Step]:
    """Variations of a picture along the levels of focus, all of the same noise: the paper's figure 9.

    Args:
        pipe: with the flow from image to image.
        image: the picture.
        focuses: one per place; the paper's five levels where left out.
        mask: which part of the picture counts, as in `Condition`.
        seed: of every place alike; drawn afresh if left out.
        options: as in `VersatileDiffusionPipeline.generate`.
    """
    made: list[Step] = []
    for focus in levels() if focuses is None else focuses:
        seeds = made[0].output.settings["seeds"] if made else seed
        output = pipe.generate("image", [Condition("image", image, mask=mask, focus=focus)], seed=seeds, **options)
        made.append(Step(focus, output))
    return made


def recombine(
    style: Float[Tensor, "b l d"], content: Float[Tensor, "b l d"], components: int = 2, convention: str = "paper"
) -> Float[Tensor, "b l d"]:
    """The style of one context with the semantics of another: the strongest components of the one in place of those of
    the other, which gives the global token, the mean and all weaker components. A context with itself is itself.

    Args:
        style, content: tokens of one form.
        components: how many of the strongest hold the style; 2 are kept at level 2 and removed at level -2.
        convention: a key of `CONVENTIONS`, which says how tokens are centred.

    Raises:
        ValueError: no such convention, or less than one component.
    """
    if convention not in CONVENTIONS:
        raise ValueError(unknown("convention", convention, CONVENTIONS))
    if components < 1:
        raise ValueError(f"components is {components}; it must be 1 or more")
    centre = CONVENTIONS[convention].centre
    strongest = weighed(style[:, 1:], Weights((1.0,) * components), centre) - weighed(style[:, 1:], Weights(()), centre)
    weaker = weighed(content[:, 1:], Weights((0.0,) * components, beyond=1.0), centre)
    return torch.cat([content[:, :1], strongest + weaker], dim=1)


def restyle(
    pipe: VersatileDiffusionPipeline,
    style: Any,
    content: Any,
    *,
    components: int = 2,
    convention: str = "paper",
    **options: Any,
) -> Output:
    """Pictures with the style of one picture and the semantics of another, from recombined contexts.

    Args:
        pipe: with the flow from image to image.
        style, content: the pictures.
        components, convention: see `recombine`.
        options: as in `VersatileDiffusionPipeline.generate`.
    """
    pictures = {"style": style, "content": content}
    raw = {name: MODALITIES["image"].check(picture) for name, picture in pictures.items()}
    look, shown = (pipe.encode_context([picture], "image") for picture in raw.values())
    combined = recombine(look, shown, components, convention)
    output = pipe.generate("image", [Condition("image", tokens=combined)], **options)
    records = {name: record_of(given, raw[name]) for name, given in pictures.items()}
    record = {"name": RESTYLE, **records, "components": components, "convention": convention}
    return replace(output, settings=output.settings | {"conditions": [], "application": record})


def restyle_again(
    pipe: VersatileDiffusionPipeline, settings: Mapping[str, Any], resolve: Resolve | None = None
) -> Output:
    """What settings of `restyle` describe, all items; `applications.again.replay` calls it."""
    record = dict(settings["application"])
    del record["name"]
    pictures = {name: value_of(record.pop(name), MODALITIES["image"].check, resolve) for name in ("style", "content")}
    taken = ("data", "conditions", "style")  # style words are for texts, and there is none
    arguments = {name: value for name, value in arguments_of(settings, resolve).items() if name not in taken}
    return restyle(pipe, **pictures, **record, **arguments)
