"""Options of the commands that generate, each in a user's words, and the commands that each belongs to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from versatile_diffusion.choices import unknown
from versatile_diffusion.flow import Flow
from versatile_diffusion.tasks import TASKS

NAMED_PARTS: Mapping[str, tuple[float, float, float, float]] = {
    "left": (0, 0, 0.5, 1),
    "right": (0.5, 0, 1, 1),
    "top": (0, 0, 1, 0.5),
    "bottom": (0, 0.5, 1, 1),
    "middle": (0.25, 0.25, 0.75, 0.75),
}
CHOICES: Mapping[str, Sequence[str]] = {
    "scheduler": ("ddim", "dpm++", "unipc"),
    "mixing": ("attention", "layer", "model", "join"),
    "null": ("2023", "2022"),
    "match_colours": ("simple", "histogram"),
    "repaint": tuple(NAMED_PARTS),
    "device": ("cpu", "cuda", "mps"),
    "as": ("context", "latent"),
    "objective": ("image-codec", "text-codec", "context-encoders", "image-context", "judge", "diffuser"),
    "parallel": ("ddp", "fsdp"),
    "protocol": ("quick", "full", "varied"),
}
"""Names that an option takes, for the shell's completion, which must not wait for the modules that have the tables."""
BOX_OR_MASK = ", a box as LEFT:TOP:RIGHT:BOTTOM in shares of the canvas, or a mask (file)"
PART = f"{', '.join(NAMED_PARTS)}{BOX_OR_MASK}"


def among(name: str) -> Callable[[str], list[str]]:
    """Completes the names that an option takes."""

    def complete(incomplete: str) -> list[str]:
        return [choice for choice in CHOICES[name] if choice.startswith(incomplete)]

    return complete


def models(incomplete: str) -> list[str]:
    """Completes the names of shipped models."""
    from versatile_diffusion.shipped import shipped_models

    return [name for name in shipped_models() if name.startswith(incomplete)]


def tasks(incomplete: str) -> list[str]:
    """Completes the names of tasks."""
    return [name for name in TASKS if name.startswith(incomplete)]


def styles(context: typer.Context, incomplete: str) -> list[str]:
    """Completes the styles of the model that is named before."""
    from versatile_diffusion.shipped import styles_of

    return [style for style in styles_of(context.params.get("model") or "emoji") if style.startswith(incomplete)]


Model = Annotated[
    str, typer.Option(metavar="NAME", help="Name of a shipped model, a folder, or a hub id.", autocompletion=models)
]
Device = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="cpu, cuda, ...; the GPU where there is one.", autocompletion=among("device")),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Of several inputs, make again what is done already.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Steps = Annotated[int | None, typer.Option(min=1, max=1000, help="Steps of the sampler: more is finer.")]
Scheduler = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="ddim, dpm++ or unipc; the model's own if left out.", autocompletion=among("scheduler")
    ),
]
Preview = Annotated[
    bool | None,
    typer.Option("--preview/--no-preview", help="Draw pictures in the terminal; where it can, if left out."),
]


@dataclass(frozen=True)
class Options:
    """Options of every command that generates. Those named as the pipeline's arguments are handed on to it."""

    model: Model = "emoji"
    count: Annotated[int, typer.Option(min=1, max=256, help="How many to make.")] = 1
    candidates: Annotated[
        int,
        typer.Option(min=1, max=256, help="Make so many for each, and keep the one that agrees best with what guides."),
    ] = 1
    seed: Annotated[int | None, typer.Option(min=0, help="Item k has seed + k; drawn afresh if left out.")] = None
    steps: Steps = None
    guidance_scale: Annotated[float | None, typer.Option(help="How closely to follow what guides; 1: no more.")] = None
    guidance_interval: Annotated[
        str | None,
        typer.Option(metavar="START:END", help="Guide harder only there (0 noise, 1 done), such as 0.1:0.8; faster."),
    ] = None
    guidance_rescale: Annotated[
        float | None, typer.Option(help="Against burnt colours at a high guidance scale: 0 (off) to 1; try 0.7.")
    ] = None
    scheduler: Scheduler = None
    null: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What no guidance means, by release: 2023 (nothing, or black) or 2022 (grey).",
            autocompletion=among("null"),
        ),
    ] = None
    style: Annotated[
        str | None, typer.Option(metavar="NAME", help="A style of the model, such as noto.", autocompletion=styles)
    ] = None
    negative_prompt: Annotated[str | None, typer.Option(help="A text to keep away from.")] = None
    mask: Annotated[str | None, typer.Option(metavar="FILE", help="What of the picture counts: white does.")] = None
    focus: Annotated[
        float | None, typer.Option(help="What of the picture counts: 0 what is shown, 0.5 all, 1 its style.")
    ] = None
    mixing: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="How several act together: attention, layer, model (each whole) or join.",
            autocompletion=among("mixing"),
        ),
    ] = None
    layer_seed: Annotated[int | None, typer.Option(min=0, help="Draws who guides which block, with layer.")] = None
    show_plan: Annotated[
        bool, typer.Option("--show-plan", help="Print who guided which block, step by step, with layer.")
    ] = False
    layer_plan: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="In place of drawing: a plan as --show-plan prints it."),
    ] = None
    height: Annotated[int | None, typer.Option(min=1, help="Of the picture, in pixels.")] = None
    width: Annotated[int | None, typer.Option(min=1, help="Of the picture, in pixels.")] = None
    start: Annotated[str | None, typer.Option(metavar="FILE", help="A picture to begin from.")] = None
    fidelity: Annotated[float | None, typer.Option(help="How much of the start stays: 0 nothing, 1 all.")] = None
    repaint: Annotated[
        str | None,
        typer.Option(
            metavar="PART",
            help=f"The only part of the start that is made anew (white of a mask): {PART}.",
            autocompletion=among("repaint"),
        ),
    ] = None
    match_colours: Annotated[
        str | None,
        typer.Option(
            metavar="METHOD",
            help="Give it the colours of the picture: simple or histogram.",
            autocompletion=among("match_colours"),
        ),
    ] = None
    temperature: Annotated[
        float | None, typer.Option(help="How freely words are chosen: 0 the likeliest always, 1 as learnt.")
    ] = None
    top_k: Annotated[int | None, typer.Option(min=0, help="Choose among the k likeliest words; 0: all.")] = None
    top_p: Annotated[float | None, typer.Option(help="Choose among the likeliest words of this share; 1: all.")] = None
    max_length: Annotated[int | None, typer.Option(min=2, help="Most word pieces of a text, both ends counted.")] = None
    rank: Annotated[
        bool, typer.Option("--rank", help="Best first, by how well it agrees with what guides; the same once.")
    ] = False
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to; pictures go to ./out if left out, and with - to stdout.")
    ] = None
    overwrite: Overwrite = False
    device: Device = None
    preview: Preview = None
    json: Json = False

    @property
    def to_stdout(self) -> bool:
        return self.out == STDOUT

    def asked(self) -> dict[str, Any]:
        """Everything given that a result depends on, plain JSON."""
        given = {option.name: getattr(self, option.name) for option in fields(self) if option.name not in PRESENTATION}
        defaults = {option.name: option.default for option in fields(self)}
        return {name: value for name, value in given.items() if value != defaults[name]}

    def arguments(self) -> dict[str, Any]:
        """For `VersatileDiffusionPipeline.generate`, those that were given."""
        given = {name: getattr(self, name) for name in HANDED_ON}
        given |= {"num_inference_steps": self.steps, "num_outputs": self.count, "rank": self.rank or None}
        if self.guidance_interval is not None:
            given["guidance_interval"] = numbers(self.guidance_interval, 2, "--guidance-interval", "START:END")
        if self.layer_plan is not None:
            given["layer_plan"] = plan(self.layer_plan)
        if self.repaint is not None:
            given["repaint"] = part(self.repaint)
        return {name: value for name, value in given.items() if value is not None}


STDOUT = Path("-")
PRESENTATION = ("out", "overwrite", "device", "preview", "json", "show_plan")
"""Options on which no result depends."""
HANDED_ON = (
    "candidates",
    "guidance_scale",
    "guidance_rescale",
    "scheduler",
    "null",
    "style",
    "negative_prompt",
    "mixing",
    "layer_seed",
    "height",
    "width",
    "start",
    "fidelity",
    "temperature",
    "top_k",
    "top_p",
    "max_length",
)


def _from_texts(flow: Flow) -> bool:
    return "text" in flow.contexts


def _from_pictures(flow: Flow) -> bool:
    return "image" in flow.contexts


def _from_several(flow: Flow) -> bool:
    return len(flow.contexts) > 1


def _to_pictures(flow: Flow) -> bool:
    return flow.data == "image"


def _pictures_to_pictures(flow: Flow) -> bool:
    return _from_pictures(flow) and _to_pictures(flow)


def _to_texts(flow: Flow) -> bool:
    return flow.data == "text"


BELONGS: Mapping[Callable[[Flow], bool], frozenset[str]] = {
    _from_texts: frozenset({"style", "negative_prompt"}),
    _from_pictures: frozenset({"mask", "focus"}),
    _from_several: frozenset({"mixing", "layer_seed", "layer_plan", "show_plan"}),
    _to_pictures: frozenset({"height", "width", "start", "fidelity", "repaint"}),
    _pictures_to_pictures: frozenset({"match_colours"}),
    _to_texts: frozenset({"temperature", "top_k", "top_p", "max_length"}),
}
"""Options that only some flows have; all others belong to every flow."""


def parameters(flow: Flow | None, without: frozenset[str] = frozenset()) -> list[Parameter]:
    """The options of a flow's command (of any flow if None), as keyword parameters for typer."""
    hints = get_type_hints(Options, include_extras=True)
    foreign = without.union(*(names for has, names in BELONGS.items() if flow is not None and not has(flow)))
    return [
        Parameter(option.name, Parameter.KEYWORD_ONLY, default=option.default, annotation=hints[option.name])
        for option in fields(Options)
        if option.name not in foreign
    ]


def numbers(text: str, count: int, name: str, form: str) -> tuple[float, ...]:
    """Numbers divided by colons; ValueError if there are more or fewer than `count`."""
    try:
        found = tuple(float(piece) for piece in text.split(":"))
    except ValueError:
        found = ()
    if len(found) != count:
        raise ValueError(f"{name} is {text!r}; it must be {form}, numbers divided by colons")
    return found


def plan(file: str) -> list[list[int]]:
    """A layer plan: a line for each step (or one for all), in it the number of the condition that each block takes."""
    if not Path(file).is_file():
        raise ValueError(f"--layer-plan is {file}, and there is no such file")
    try:
        rows = [[int(number) for number in line.split()] for line in Path(file).read_text("utf-8").splitlines()]
    except ValueError as error:
        raise ValueError(f"{file} is no layer plan, which has a line of numbers for each step ({error})") from error
    return [row for row in rows if row]


def part(text: str) -> Any:
    """A part of the canvas: by name, as a box, or a file with a mask."""
    if text in NAMED_PARTS:
        return NAMED_PARTS[text]
    if text.count(":") == 3 and not Path(text).exists():
        return numbers(text, 4, "a box", "LEFT:TOP:RIGHT:BOTTOM")
    if not Path(text).is_file():
        raise ValueError(unknown("part of the canvas", text, NAMED_PARTS, BOX_OR_MASK))
    return text
