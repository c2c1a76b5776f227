"""`versatile edit`: a picture changed by words."""

from __future__ import annotations

import inspect
import secrets
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from versatile_diffusion.cli import colours
from versatile_diffusion.cli.console import note, note_made, show, show_json
from versatile_diffusion.cli.generate import argument
from versatile_diffusion.cli.inputs import one_input
from versatile_diffusion.cli.options import Options, parameters
from versatile_diffusion.flow import Condition, Flow

if TYPE_CHECKING:
    from versatile_diffusion.applications.round_trip import EditResult

NAME = "edit"
FIRST_PASS = ("num_inference_steps", "guidance_scale", "scheduler", "null")
"""Settings that both passes share."""
WITHOUT = frozenset({"focus", "mask", "rank", "overwrite"})


@dataclass(frozen=True)
class Change:
    """What is to be different."""

    remove: Annotated[str | None, typer.Option(metavar="WORDS", help="What the picture is to lose.")] = None
    add: Annotated[str | None, typer.Option(metavar="WORDS", help="What it is to gain.")] = None
    caption: Annotated[
        str | None, typer.Option(metavar="TEXT", help="In place of both, the whole of what it is to show.")
    ] = None
    image_weight: Annotated[
        float, typer.Option(help="How much the picture counts beside the words: 0 to 1, as shares.")
    ] = 0.33
    whole: Annotated[
        bool, typer.Option("--whole", help="All of the picture guides; not only its ten strongest components.")
    ] = False

    @property
    def nothing(self) -> bool:
        return self.remove is None and self.add is None and self.caption is None

    def arguments(self) -> dict[str, Any]:
        """For `applications.round_trip.edit`."""
        given = {field.name: getattr(self, field.name) for field in fields(self) if field.name != "whole"}
        return given | ({"focus": None} if self.whole else {})


def edit(**named: Any) -> None:
    """Change a picture by words: it is described, the description is changed, and both make the new picture.

    With --remove and --add the description is changed as a latent. With --caption it is what you write. Without any of
    them the descriptions alone are printed, for you to write your own.
    """
    from versatile_diffusion.applications.round_trip import describe
    from versatile_diffusion.applications.round_trip import edit as edit_picture
    from versatile_diffusion.cli.model import load
    from versatile_diffusion.cli.results import check_place
    from versatile_diffusion.modalities import MODALITIES
    from versatile_diffusion.sampling.request import Request

    picture = one_input("image", named.pop("image")).value
    change = Change(**{field.name: named.pop(field.name) for field in fields(Change)})
    options = Options(**named)
    arguments = options.arguments()
    Request("image", (Condition("image", picture),), **arguments)
    colours.check(options.match_colours, [Condition("image", picture)])
    MODALITIES["image"].check(picture)
    check_place(options, "image")
    pipe = load(options.model, options.device)
    seed = secrets.randbelow(2**32) if options.seed is None else options.seed
    first = {name: arguments[name] for name in FIRST_PASS if name in arguments}
    if change.nothing:
        found = describe(pipe, picture, seed=seed, num_outputs=options.count, **first)
        if options.json:
            return show_json({"task": NAME, "before": found.texts, "settings": found.settings})
        for text in found.texts:
            show(text)
        return note('change it with --remove WORDS and --add WORDS, or with --caption "..." of your own')
    result = edit_picture(pipe, picture, seed=seed, captioning=first, **change.arguments(), **arguments)
    matched = colours.matched(result.picture, [Condition("image", picture)], options.match_colours)
    return _tell(replace(result, picture=matched), options, seed)


def _tell(result: EditResult, options: Options, seed: int) -> None:
    """Every stage, and the pictures."""
    from versatile_diffusion.cli.results import KINDS, Place

    written = KINDS["image"].write(Place(options.out, NAME), result.picture, options.model)
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
