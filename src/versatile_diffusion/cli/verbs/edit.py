"""`versatile edit`: edit an image with words."""

from __future__ import annotations

import inspect
import secrets
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from versatile_diffusion.applications import colours
from versatile_diffusion.cli.io.console import note, note_made, show, show_json
from versatile_diffusion.cli.io.inputs import one_input
from versatile_diffusion.cli.options import CommandOptions, parameters
from versatile_diffusion.cli.verbs.generate import argument
from versatile_diffusion.flow import Condition, Flow

if TYPE_CHECKING:
    from versatile_diffusion.applications.round_trip import EditResult

NAME = "edit"
FIRST_PASS = ("num_inference_steps", "guidance_scale", "scheduler", "null")
"""Settings shared by both passes."""
WITHOUT = frozenset({"focus", "mask", "rank", "overwrite"})


@dataclass(frozen=True)
class Change:
    """The requested edit."""

    remove: Annotated[str | None, typer.Option(metavar="WORDS", help="What to remove from the image.")] = None
    add: Annotated[str | None, typer.Option(metavar="WORDS", help="What to add to the image.")] = None
    caption: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Full target caption, instead of --remove and --add.")
    ] = None
    image_weight: Annotated[float, typer.Option(help="Weight of the image relative to the caption, 0 to 1.")] = 0.33
    whole: Annotated[
        bool, typer.Option("--whole", help="Condition on the whole image, not only its ten main components.")
    ] = False

    @property
    def nothing(self) -> bool:
        return self.remove is None and self.add is None and self.caption is None

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `applications.round_trip.edit`."""
        given = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "whole"}
        return given | ({"focus": None} if self.whole else {})


def edit(**named: Any) -> None:
    """Edit an image with words: caption it, edit the caption, and generate from both.

    --remove and --add edit the caption in latent space; --caption replaces it. Without any of them, only the captions
    are printed, for you to edit.
    """
    from versatile_diffusion.applications.round_trip import describe
    from versatile_diffusion.applications.round_trip import edit as edit_picture
    from versatile_diffusion.cli.io.model import load
    from versatile_diffusion.cli.io.results import check_place
    from versatile_diffusion.modalities import MODALITIES
    from versatile_diffusion.pipeline.request import Request

    picture = one_input("image", named.pop("image")).value
    change = Change(**{field.name: named.pop(field.name) for field in fields(Change)})
    options = CommandOptions.of(named)
    arguments = options.arguments()
    Request("image", (Condition("image", picture),), **arguments)
    colours.check(options.match_colours, [Condition("image", picture)])
    MODALITIES["image"].check(picture)
    check_place(options, "image")
    pipe = load(options.model, options.device, options.dtype)
    seed = secrets.randbelow(2**32) if options.seed is None else options.seed
    first = {name: arguments[name] for name in FIRST_PASS if name in arguments}
    if change.nothing:
        found = describe(pipe, picture, seed=seed, num_outputs=options.count, **first)
        if options.json:
            return show_json({"task": NAME, "before": found.texts, "settings": found.settings})
        for text in found.texts:
            show(text)
        return note('edit with --remove WORDS and --add WORDS, or with your own --caption "..."')
    result = edit_picture(pipe, picture, seed=seed, captioning=first, **change.arguments(), **arguments)
    matched = colours.match_to_input(result.picture, [Condition("image", picture)], options.match_colours)
    return _tell(replace(result, picture=matched), options, seed)


def _tell(result: EditResult, options: CommandOptions, seed: int) -> None:
    """Print every stage and save the images."""
    from versatile_diffusion.cli.io.results import Place, write

    written = write(Place(options.out, NAME), result.picture, options.model)
    before = [] if result.before is None else result.before.texts
    if options.json:
        stages = {"before": before, "after": list(result.after)}
        return show_json({"task": NAME, **stages, **written.as_json(), "settings": result.picture.settings})
    for name, texts in (("before", before), ("after", result.after)):
        for text in texts:
            note(f"{name}: {text}")
    written.show(options.preview)
    note_made(len(result), seed)


def _parameters() -> list[inspect.Parameter]:
    hints = get_type_hints(Change, include_extras=True)
    keyword = inspect.Parameter.KEYWORD_ONLY
    own = [inspect.Parameter(f.name, keyword, default=f.default, annotation=hints[f.name]) for f in fields(Change)]
    first = inspect.Parameter("image", keyword, annotation=argument("image"))
    return [
        first,
        *own,
        *parameters(Flow("image", ("image",)), without=WITHOUT),
    ]


edit.__signature__ = inspect.Signature(_parameters())  # type: ignore[attr-defined]
edit.__annotations__ = {parameter.name: parameter.annotation for parameter in _parameters()}
