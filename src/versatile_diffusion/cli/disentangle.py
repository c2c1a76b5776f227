"""`versatile disentangle`: variations of a picture that keep what it shows, or its style."""

from __future__ import annotations

import inspect
import secrets
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from versatile_diffusion.cli import colours
from versatile_diffusion.cli.console import note, note_made, show_json
from versatile_diffusion.cli.generate import Job, argument, produce
from versatile_diffusion.cli.inputs import one_input
from versatile_diffusion.cli.options import Options, parameters
from versatile_diffusion.flow import Condition, Flow

if TYPE_CHECKING:
    from versatile_diffusion.sampling.focus import Focus

NAME = "disentangle"


@dataclass(frozen=True)
class Choice:
    """What of the picture counts; without level, dial and style it is the strip."""

    level: Annotated[
        float | None,
        typer.Option(help="-2, -1: what is shown; 0: all; 1, 2: the style. Whole numbers, as in the paper."),
    ] = None
    focus: Annotated[float | None, typer.Option(help="The dial of 2023: 0 what is shown, 0.5 all, 1 the style.")] = None
    style_of: Annotated[
        str | None, typer.Option(metavar="FILE", help="Take the style from this picture, all else from the first.")
    ] = None
    strip: Annotated[bool, typer.Option("--strip", help="All levels side by side, as without any other.")] = False
    levels: Annotated[int, typer.Option(min=2, max=64, help="How many in the strip; the paper's has 5.")] = 5
    convention: Annotated[
        str | None, typer.Option(help="How pictures are taken apart: paper (or 2022), 2023, or pca.")
    ] = None
    components: Annotated[
        int | None, typer.Option(min=1, help="How many components are told apart; with --style-of how many are style.")
    ] = None
    drop_global: Annotated[
        bool, typer.Option("--drop-global", help="Leave out the token that sums the picture up: for art.")
    ] = False
    on_null: Annotated[
        bool, typer.Option("--on-null", help="Treat what no guidance means likewise, as 2022 did; with --null 2022.")
    ] = False

    def check(self) -> None:
        """ValueError unless at most one thing is asked for."""
        asked = {
            "--level": self.level,
            "--focus": self.focus,
            "--style-of": self.style_of,
            "--strip": self.strip or None,
        }
        if len(chosen := [name for name, value in asked.items() if value is not None]) > 1:
            raise ValueError(f"{' and '.join(chosen)} cannot go together; give one of {', '.join(asked)}")
        if self.style_of is not None and self.drop_global:
            raise ValueError("--drop-global does not go with --style-of, which keeps that token of the first picture")
        if self.style_of is not None and self.on_null:
            raise ValueError("--on-null does not go with --style-of, which changes no null context")

    def one(self) -> Focus | None:
        """The focus where a single one is asked for."""
        from versatile_diffusion.sampling.focus import Focus

        if self.level is None and self.focus is None:
            return None
        dial = "2023" if self.level is None else "paper"
        level = self.focus if self.level is None else self.level
        assert level is not None
        return Focus(level, self.convention or dial, self.components, self.drop_global, self.on_null or None)


def disentangle(**named: Any) -> None:
    """Make variations of a picture that keep what it shows, or its style.

    Without --level, --focus or --style-of a strip is drawn: variations from all semantics over the plain one to all
    style, of the same noise.
    """
    picture = one_input("image", named.pop("image")).value
    choice = Choice(**{field.name: named.pop(field.name) for field in fields(Choice)})
    options = Options(**named)
    choice.check()
    if (focus := choice.one()) is not None:
        condition = Condition("image", picture, mask=options.mask, focus=focus)
        produce(NAME, "image", [Job([condition])], options)
    else:
        (draw_strip if choice.style_of is None else take_style)(picture, choice, options)


def draw_strip(picture: Any, choice: Choice, options: Options) -> None:
    """The levels side by side in one picture; with --count a row for each seed."""
    from versatile_diffusion.applications.disentangle import levels, strip
    from versatile_diffusion.cli.results import Result
    from versatile_diffusion.cli.sweep import Axis, save

    shared = {"components": choice.components, "drop_global": choice.drop_global, "on_null": choice.on_null or None}
    focuses = levels(choice.convention or "paper", choice.levels, **shared)
    if options.to_stdout:
        raise ValueError("--out - (stdout) is for a single picture, with --level, --focus or --style-of; give a folder")
    pipe, seed = _ready([picture], options)
    conditions = [Condition("image", picture)]
    steps = strip(pipe, conditions[0].value, focuses, mask=options.mask, seed=seed, **options.arguments())
    outputs = [colours.matched(step.output, conditions, options.match_colours) for step in steps]
    rows = zip(*outputs, strict=True)  # item by item
    axes = [Axis("level", tuple(focus.level for focus in focuses))]
    if options.count > 1:
        axes.insert(0, Axis("seed", tuple(steps[0].output.settings["seeds"])))
    file = save(
        [item for row in rows for item in row], axes, options.model, options.out or Path("out"), f"{NAME}-strip"
    )
    if options.json:
        cells = [output.settings for output in outputs]
        return show_json({"task": NAME, "levels": list(axes[-1].values), "files": [str(file)], "cells": cells})
    Result(files=(file,)).show(options.preview)
    note(f"{len(steps)} levels, --seed {seed} makes them again")


def take_style(picture: Any, choice: Choice, options: Options) -> None:
    """Pictures with the style of one and all else of another."""
    from versatile_diffusion.applications.disentangle import restyle
    from versatile_diffusion.cli.results import KINDS, Place

    assert choice.style_of is not None
    if options.mask is not None:
        raise ValueError("--mask does not go with --style-of, which takes both pictures whole")
    pipe, seed = _ready([picture, choice.style_of], options)
    convention, components = choice.convention or "paper", choice.components or 2
    own = {"components": components, "convention": convention, "seed": seed, **options.arguments()}
    output = restyle(pipe, choice.style_of, picture, **own)
    output = colours.matched(output, [Condition("image", choice.style_of)], options.match_colours)
    result = KINDS["image"].write(Place(options.out, NAME), output, options.model)
    if options.json:
        return show_json({"task": NAME, **result.as_json(), "settings": output.settings})
    result.show(options.preview)
    note_made(len(output), seed)


def _ready(pictures: list[Any], options: Options) -> tuple[Any, int]:
    """The model and the seed, after what can be refused has been."""
    from versatile_diffusion.cli.model import load
    from versatile_diffusion.cli.results import check_place
    from versatile_diffusion.sampling.conditions import GivenCondition
    from versatile_diffusion.sampling.request import Request

    Request("image", tuple(Condition("image", picture) for picture in pictures), **options.arguments())
    colours.check(options.match_colours, [Condition("image", picture) for picture in pictures])
    for picture in pictures:
        GivenCondition.check(Condition("image", picture, mask=options.mask))
    check_place(options, "image")
    return load(options.model, options.device), secrets.randbelow(2**32) if options.seed is None else options.seed


def _parameters() -> list[inspect.Parameter]:
    hints = get_type_hints(Choice, include_extras=True)
    keyword = inspect.Parameter.KEYWORD_ONLY
    own = [inspect.Parameter(f.name, keyword, default=f.default, annotation=hints[f.name]) for f in fields(Choice)]
    first = inspect.Parameter("image", keyword, annotation=argument("image"))
    return [first, *own, *parameters(Flow("image", ("image",)), without=frozenset({"focus", "overwrite", "rank"}))]


disentangle.__signature__ = inspect.Signature(_parameters())  # type: ignore[attr-defined]
disentangle.__annotations__ = {parameter.name: parameter.annotation for parameter in _parameters()}
