"""`versatile joint`: a picture and its caption, made together."""

from __future__ import annotations

import inspect
import secrets
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from versatile_diffusion.cli.blend import CONTEXTS, condition
from versatile_diffusion.cli.console import note_made, show, show_json
from versatile_diffusion.cli.options import Options, parameters
from versatile_diffusion.flow import Condition

if TYPE_CHECKING:
    from versatile_diffusion.applications.joint import Exchange

NAME = "joint"
OF_CAPTIONS = ("temperature", "top_k", "top_p", "max_length")
FOREIGN = frozenset({"mask", "focus", "overwrite", "candidates", "rank", "show_plan", "layer_plan", "match_colours"})


@dataclass(frozen=True)
class Between:
    """How picture and caption guide each other."""

    caption_weight: Annotated[
        float, typer.Option(help="How much the caption counts for the picture, beside a weight of 1 for what is given.")
    ] = 1.0
    picture_weight: Annotated[float, typer.Option(help="How much the picture counts for the caption, likewise.")] = 1.0
    every: Annotated[int, typer.Option(min=1, help="Steps after which each hears of the other; fewer take longer.")] = 5
    after: Annotated[
        float, typer.Option(help="From when on they guide each other: 0 from the start, 0.5 from half of the way on.")
    ] = 0.2
    caption_scale: Annotated[
        float | None,
        typer.Option(help="How closely the caption follows what guides it, as --guidance-scale for the picture."),
    ] = None

    def exchange(self) -> Exchange:
        """As the application takes it."""
        from versatile_diffusion.applications.joint import Exchange

        return Exchange(**{f.name: getattr(self, f.name) for f in fields(self) if f.name != "caption_scale"})


def joint(**named: Any) -> None:
    """Make a picture and its caption together, each guiding the other.

    From nothing, or from texts and pictures that guide both, written as for `versatile blend`: VALUE@WEIGHT, then
    controls of its own. Without words for the caption to follow, what comes of it is up to the seed.
    """
    from PIL import Image

    from versatile_diffusion.applications.joint import joint as make
    from versatile_diffusion.cli.model import load
    from versatile_diffusion.cli.preview import preview
    from versatile_diffusion.cli.results import KINDS, Place, check_place
    from versatile_diffusion.sampling.conditions import GivenCondition
    from versatile_diffusion.sampling.request import Request

    specs = {modality: named.pop(modality) for modality in CONTEXTS}
    conditions = [condition(modality, spec) for modality, given in specs.items() for spec in given or ()]
    between = Between(**{field.name: named.pop(field.name) for field in fields(Between)})
    options, exchange = Options(**named), between.exchange()
    arguments = {name: value for name, value in options.arguments().items() if name not in FOREIGN}
    captioning = {name: arguments.pop(name) for name in OF_CAPTIONS if name in arguments}
    captioning |= {} if between.caption_scale is None else {"guidance_scale": between.caption_scale}
    Request("image", tuple(conditions) or (Condition("text", ""),), **arguments)
    Request("text", tuple(conditions) or (Condition("text", ""),), **captioning)
    for one in conditions:
        if isinstance(one.value, str):
            GivenCondition.check(one)
    if options.to_stdout:
        raise ValueError("--out - (stdout) is for one picture, and here a caption belongs to it; give a folder")
    check_place(options, "image")
    pipe, folder = load(options.model, options.device), options.out or Path("out")
    seed = secrets.randbelow(2**32) if options.seed is None else options.seed
    made = make(pipe, conditions, exchange=exchange, captioning=captioning, seed=seed, **arguments)
    written = KINDS["image"].write(Place(folder, NAME), made.picture, options.model)
    captions = KINDS["text"].write(Place(folder, f"{NAME}-captions"), made.caption, options.model)
    files = [str(file) for file in (*written.files, *captions.files)]
    if options.json:
        told = {**written.as_json(), "files": files, "texts": list(captions.texts)}
        return show_json({"task": NAME, **told, "settings": made.picture.settings})
    for file, text in zip(written.files, captions.texts, strict=True):
        show(f"{file}\t{text}")
    if written.grid:
        show(str(written.grid))
    with Image.open(written.grid or written.files[0]) as picture:
        preview(picture, options.preview)
    note_made(len(made), seed)


def _parameters() -> list[inspect.Parameter]:
    hints, keyword = get_type_hints(Between, include_extras=True), inspect.Parameter.KEYWORD_ONLY
    given = [inspect.Parameter(m, keyword, default=None, annotation=a) for m, a in CONTEXTS.items()]
    own = [inspect.Parameter(f.name, keyword, default=f.default, annotation=hints[f.name]) for f in fields(Between)]
    return [*given, *own, *parameters(None, without=FOREIGN)]


joint.__signature__ = inspect.Signature(_parameters())  # type: ignore[attr-defined]
joint.__annotations__ = {parameter.name: parameter.annotation for parameter in _parameters()}
