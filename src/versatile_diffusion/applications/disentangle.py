"""Disentanglement of style and semantics (figure 9 of the paper): focus levels of one image, and the style of one image
with the semantics of another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from versatile_diffusion.choices import chosen
from versatile_diffusion.flow import Condition
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.numeric import number
from versatile_diffusion.pipeline.output import Output
from versatile_diffusion.pipeline.replay import Resolve, arguments_of, value_of
from versatile_diffusion.reading import entry
from versatile_diffusion.records.record import record_of
from versatile_diffusion.sampling.focus import CONVENTIONS, MOST_COMPONENTS, Focus, Weights, scale_components

if TYPE_CHECKING:
    from versatile_diffusion.pipeline.pipeline import VersatileDiffusionPipeline

RESTYLE = "restyle"
LEVELS = 5
"""Variations in a strip, from pure semantics to pure style."""
MOST_LEVELS = 1000


@dataclass(frozen=True)
class Step:
    """One focus level of a strip, and its variations."""

    focus: Focus
    output: Output


def levels(convention: str = "paper", count: int = LEVELS, **options: Any) -> list[Focus]:
    """Return evenly spaced levels of a convention, lowest to highest; -2 to 2 for the paper's.

    Args:
        convention: a key of `CONVENTIONS`.
        count: number of levels, 2 or more.
        options: other fields of `Focus`, e.g. `drop_global`.

    Raises:
        ValueError: an unknown convention, fewer than 2 levels, or unsupported levels.
    """
    chosen("convention", convention, CONVENTIONS)
    count = number("count of the levels of a strip", count, 2, MOST_LEVELS, whole=True)
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
    """Generate variations at several focus levels from the same noise (figure 9 of the paper).

    Args:
        pipe: pipeline with image-variation.
        image: the image.
        focuses: one per level; by default the paper's five.
        mask: part of the image to use, as in `Condition`.
        seed: seed of every level; random by default.
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
    """Combine the style of one context with the semantics of another: the main components of `style` replace those of
    `content`, which keeps its global token, mean and minor components. A context with itself is unchanged.

    Args:
        style, content: tokens of one shape.
        components: number of main components that hold the style; level 2 keeps 2, level -2 removes 2.
        convention: key of `CONVENTIONS`; determines how tokens are centred.

    Raises:
        ValueError: an unknown convention, or fewer than one component.
    """
    chosen("convention", convention, CONVENTIONS)
    components = number("components", components, 1, MOST_COMPONENTS, whole=True)
    centre = CONVENTIONS[convention].centre
    strongest = scale_components(style[:, 1:], Weights((1.0,) * components), centre) - scale_components(
        style[:, 1:], Weights(()), centre
    )
    weaker = scale_components(content[:, 1:], Weights((0.0,) * components, beyond=1.0), centre)
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
    """Generate images with the style of one image and the semantics of another, by `recombine`.

    Args:
        pipe: pipeline with image-variation.
        style, content: the images.
        components, convention: see `recombine`.
        options: as in `VersatileDiffusionPipeline.generate`.
    """
    pictures = {"style": style, "content": content}
    raw = {name: MODALITIES["image"].check(picture) for name, picture in pictures.items()}
    look, shown = (pipe.encode_context([picture], "image") for picture in raw.values())
    combined = recombine(look, shown, components, convention)
    output = pipe.generate("image", [Condition("image", tokens=combined)], **options)
    records = {name: record_of(given, raw[name]) for name, given in pictures.items()}
    record = {"name": RESTYLE, **records, "components": int(components), "convention": convention}
    return replace(output, settings=output.settings | {"conditions": [], "application": record})


def restyle_again(
    pipe: VersatileDiffusionPipeline, settings: Mapping[str, Any], resolve: Resolve | None = None
) -> Output:
    """Reproduce the settings of `restyle`, all items; called by `applications.again.replay`."""
    record = settings["application"]
    pictures = {
        name: value_of(entry(record, name, Mapping), MODALITIES["image"].check, resolve)
        for name in ("style", "content")
    }
    how: dict[str, Any] = {name: entry(record, name, object) for name in ("components", "convention")}
    taken = ("data", "conditions", "style")  # the style option applies to prompts only
    arguments = {name: value for name, value in arguments_of(settings, resolve).items() if name not in taken}
    return restyle(pipe, **pictures, **how, **arguments)
