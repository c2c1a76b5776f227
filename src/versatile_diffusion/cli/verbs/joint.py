"""`versatile joint`: generate an image and its caption together."""

from __future__ import annotations

import inspect
import secrets
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from versatile_diffusion.cli.io.console import note_made, show, show_json
from versatile_diffusion.cli.options import CommandOptions, parameters
from versatile_diffusion.cli.verbs.blend import condition, option
from versatile_diffusion.flow import Condition
from versatile_diffusion.modalities import MODALITIES

if TYPE_CHECKING:
    from versatile_diffusion.applications.joint import Exchange

NAME = "joint"
CONTEXTS = ("text", "image")
"""Modalities generated together, and those that may condition both."""
OF_CAPTIONS = ("temperature", "top_k", "top_p", "max_length")
FOREIGN = frozenset({"mask", "focus", "overwrite", "candidates", "rank", "show_plan", "layer_plan", "match_colours"})


@dataclass(frozen=True)
class Between:
    """How image and caption condition each other."""

    caption_weight: Annotated[
        float, typer.Option(help="Weight of the caption for the image; given inputs have weight 1.")
    ] = 1.0
    picture_weight: Annotated[
        float, typer.Option("--image-weight", help="Weight of the image for the caption; given inputs have weight 1.")
    ] = 1.0
    every: Annotated[int, typer.Option(min=1, help="Steps between exchanges; fewer is slower.")] = 5
    after: Annotated[float, typer.Option(help="Start of the exchange: 0 from the first step, 0.5 from halfway.")] = 0.2
    caption_scale: Annotated[
        float | None,
        typer.Option(help="Guidance scale of the caption; --guidance-scale is the image's."),
    ] = None

    def exchange(self) -> Exchange:
        """Return these settings as the application takes them."""
        from versatile_diffusion.applications.joint import Exchange

        return Exchange(**{f.name: getattr(self, f.name) for f in fields(self) if f.name != "caption_scale"})


def joint(**named: Any) -> None:
    """Generate an image and its caption together, each conditioning the other.

    Unconditional, or from prompts and images that condition both, written as for `versatile blend`: VALUE@WEIGHT, then
    controls. Without a prompt, the content depends on the seed alone.
    """
    from versatile_diffusion.applications.joint import joint as make
    from versatile_diffusion.cli.io.model import load
    from versatile_diffusion.cli.io.preview import preview
    from versatile_diffusion.cli.io.results import Place, check_place, write
    from versatile_diffusion.modalities.image import check_image
    from versatile_diffusion.pipeline.conditions import GivenCondition
    from versatile_diffusion.pipeline.request import Request

    specs = {modality: named.pop(modality) for modality in CONTEXTS}
    conditions = [condition(modality, spec) for modality, given in specs.items() for spec in given or ()]
    between = Between(**{field.name: named.pop(field.name) for field in fields(Between)})
    options, exchange = CommandOptions.of(named), between.exchange()
    arguments = {name: value for name, value in options.arguments().items() if name not in FOREIGN}
    captioning = {name: arguments.pop(name) for name in OF_CAPTIONS if name in arguments}
    captioning |= {} if between.caption_scale is None else {"guidance_scale": between.caption_scale}
    Request("image", tuple(conditions) or (Condition("text", ""),), **arguments)
    Request("text", tuple(conditions) or (Condition("text", ""),), **captioning)
    for one in conditions:
        if isinstance(one.value, str):
            GivenCondition.check(one)
    if options.to_stdout:
        raise ValueError("--out - (stdout) can write only one image, without its caption; use a folder")
    check_place(options, "image")
    pipe, folder = load(options.model, options.device, options.dtype), options.out or Path("out")
    seed = secrets.randbelow(2**32) if options.seed is None else options.seed
    made = make(pipe, conditions, exchange=exchange, captioning=captioning, seed=seed, **arguments)
    written = write(Place(folder, NAME), made.picture, options.model)
    captions = write(Place(folder, f"{NAME}-captions"), made.caption, options.model)
    files = [str(file) for file in (*written.files, *captions.files)]
    if options.json:
        told = {**written.as_json(), "files": files, "texts": list(captions.texts)}
        return show_json({"task": NAME, **told, "settings": made.picture.settings})
    for file, text in zip(written.files, captions.texts, strict=True):
        show(f"{file}\t{text}")
    if written.grid:
        show(str(written.grid))
    preview(check_image(written.grid or written.files[0]), options.preview)
    note_made(len(made), seed)


def _parameters() -> list[inspect.Parameter]:
    hints, keyword = get_type_hints(Between, include_extras=True), inspect.Parameter.KEYWORD_ONLY
    given = [inspect.Parameter(m, keyword, default=None, annotation=option(MODALITIES[m])) for m in CONTEXTS]
    own = [inspect.Parameter(f.name, keyword, default=f.default, annotation=hints[f.name]) for f in fields(Between)]
    return [*given, *own, *parameters(None, without=FOREIGN)]


joint.__signature__ = inspect.Signature(_parameters())  # type: ignore[attr-defined]
joint.__annotations__ = {parameter.name: parameter.annotation for parameter in _parameters()}
