"""`versatile disentangle`: variations of an image that keep its content or its style."""

from __future__ import annotations

import inspect
import secrets
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from versatile_diffusion.applications import colours
from versatile_diffusion.cli.io.console import note, note_made, show_json
from versatile_diffusion.cli.io.inputs import one_input
from versatile_diffusion.cli.options import CommandOptions, parameters
from versatile_diffusion.cli.verbs.generate import PlannedRun, argument, produce
from versatile_diffusion.flow import Condition, Flow

if TYPE_CHECKING:
    from versatile_diffusion.sampling.focus import Focus

NAME = "disentangle"


@dataclass(frozen=True)
class Choice:
    """Which part of the image to use; by default a strip of all levels."""

    level: Annotated[
        float | None,
        typer.Option(help="Paper's focus level: -2, -1 content; 0 everything; 1, 2 style."),
    ] = None
    focus: Annotated[float | None, typer.Option(help="Focus of the 2023 demo: 0 content, 0.5 all, 1 style.")] = None
    style_of: Annotated[str | None, typer.Option(metavar="FILE", help="Style image; the content comes from IMAGE.")] = (
        None
    )
    strip: Annotated[bool, typer.Option("--strip", help="All levels side by side (default).")] = False
    levels: Annotated[int, typer.Option(min=2, max=64, help="Number of levels in the strip.")] = 5
    convention: Annotated[str | None, typer.Option(help="Decomposition: paper (or 2022), 2023, or pca.")] = None
    components: Annotated[
        int | None, typer.Option(min=1, help="Number of components; with --style-of, of the style.")
    ] = None
    drop_global: Annotated[bool, typer.Option("--drop-global", help="Drop the global token (for art).")] = False
    on_null: Annotated[
        bool, typer.Option("--on-null", help="Filter the unconditional embedding too (needs --null 2022).")
    ] = False

    def check(self) -> None:
        """Raise ValueError if several modes are given."""
        asked = {
            "--level": self.level,
            "--focus": self.focus,
            "--style-of": self.style_of,
            "--strip": self.strip or None,
        }
        if len(chosen := [name for name, value in asked.items() if value is not None]) > 1:
            raise ValueError(f"{' and '.join(chosen)} are exclusive; give one of {', '.join(asked)}")
        if self.style_of is not None and self.drop_global:
            raise ValueError("--drop-global cannot be used with --style-of, which keeps the first image's global token")
        if self.style_of is not None and self.on_null:
            raise ValueError("--on-null cannot be used with --style-of, which leaves the null context unchanged")

    def one(self) -> Focus | None:
        """Return the focus if a single level is given, else None."""
        from versatile_diffusion.sampling.focus import Focus

        if self.level is None and self.focus is None:
            return None
        dial = "2023" if self.level is None else "paper"
        level = self.focus if self.level is None else self.level
        assert level is not None
        return Focus(level, self.convention or dial, self.components, self.drop_global, self.on_null or None)


def disentangle(**named: Any) -> None:
    """Vary an image, keeping its content or its style.

    Without --level, --focus or --style-of, draws a strip of variations from pure content to pure style, all from the
    same noise.
    """
    picture = one_input("image", named.pop("image")).value
    choice = Choice(**{field.name: named.pop(field.name) for field in fields(Choice)})
    options = CommandOptions.of(named)
    choice.check()
    if (focus := choice.one()) is not None:
        condition = Condition("image", picture, mask=options.given.get("mask"), focus=focus)
        produce(NAME, "image", [PlannedRun([condition])], options)
    else:
        (draw_strip if choice.style_of is None else take_style)(picture, choice, options)


def draw_strip(picture: Any, choice: Choice, options: CommandOptions) -> None:
    """Draw the levels side by side in one image; with --count, one row per seed."""
    from versatile_diffusion.applications.disentangle import levels, strip
    from versatile_diffusion.applications.sweep import Axis
    from versatile_diffusion.cli.io.results import Written
    from versatile_diffusion.cli.verbs.sweep import save

    shared = {"components": choice.components, "drop_global": choice.drop_global, "on_null": choice.on_null or None}
    focuses = levels(choice.convention or "paper", choice.levels, **shared)
    if options.to_stdout:
        raise ValueError("--out - (stdout) needs --level, --focus or --style-of; otherwise give a folder")
    pipe, seed = _ready([picture], options)
    conditions = [Condition("image", picture)]
    steps = strip(pipe, conditions[0].value, focuses, mask=options.given.get("mask"), seed=seed, **options.arguments())
    outputs = [colours.match_to_input(step.output, conditions, options.match_colours) for step in steps]
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
    Written(files=(file,)).show(options.preview)
    note(f"{len(steps)} levels; reproduce with --seed {seed}")


def take_style(picture: Any, choice: Choice, options: CommandOptions) -> None:
    """Generate images with the style of one image and the content of another."""
    from versatile_diffusion.applications.disentangle import restyle
    from versatile_diffusion.cli.io.results import Place, write

    assert choice.style_of is not None
    if options.given.get("mask") is not None:
        raise ValueError("--mask cannot be used with --style-of, which uses both whole images")
    pipe, seed = _ready([picture, choice.style_of], options)
    convention, components = choice.convention or "paper", choice.components or 2
    own = {"components": components, "convention": convention, "seed": seed, **options.arguments()}
    output = restyle(pipe, choice.style_of, picture, **own)
    output = colours.match_to_input(output, [Condition("image", choice.style_of)], options.match_colours)
    result = write(Place(options.out, NAME), output, options.model)
    if options.json:
        return show_json({"task": NAME, **result.as_json(), "settings": output.settings})
    result.show(options.preview)
    note_made(len(output), seed)


def _ready(pictures: list[Any], options: CommandOptions) -> tuple[Any, int]:
    """Load the model and choose the seed, after all checks."""
    from versatile_diffusion.cli.io.model import load
    from versatile_diffusion.cli.io.results import check_place
    from versatile_diffusion.pipeline.conditions import GivenCondition
    from versatile_diffusion.pipeline.request import Request

    Request("image", tuple(Condition("image", picture) for picture in pictures), **options.arguments())
    colours.check(options.match_colours, [Condition("image", picture) for picture in pictures])
    for picture in pictures:
        GivenCondition.check(Condition("image", picture, mask=options.given.get("mask")))
    check_place(options, "image")
    seed = secrets.randbelow(2**32) if options.seed is None else options.seed
    return load(options.model, options.device, options.dtype), seed


def _parameters() -> list[inspect.Parameter]:
    hints = get_type_hints(Choice, include_extras=True)
    keyword = inspect.Parameter.KEYWORD_ONLY
    own = [inspect.Parameter(f.name, keyword, default=f.default, annotation=hints[f.name]) for f in fields(Choice)]
    first = inspect.Parameter("image", keyword, annotation=argument("image"))
    return [first, *own, *parameters(Flow("image", ("image",)), without=frozenset({"focus", "overwrite", "rank"}))]


disentangle.__signature__ = inspect.Signature(_parameters())  # type: ignore[attr-defined]
disentangle.__annotations__ = {parameter.name: parameter.annotation for parameter in _parameters()}
