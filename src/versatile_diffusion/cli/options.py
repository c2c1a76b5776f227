"""Options of the generation commands, and which command takes which."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from inspect import Parameter
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from versatile_diffusion.choices import unknown
from versatile_diffusion.controls import (
    BOX_OR_MASK,
    CONDITION,
    PARTS,
    REQUEST,
    RESULT,
    RUN,
    Control,
    by_option,
    of_flow,
)
from versatile_diffusion.flow import Flow
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.printable import shown
from versatile_diffusion.shipped import DEFAULT
from versatile_diffusion.tasks import TASKS

CHOICES: Mapping[str, Sequence[str]] = {
    **{control.name: control.choices for control in by_option(REQUEST, RESULT).values() if control.choices},
    "device": ("cpu", "cuda", "mps", "gpu"),
    "dtype": ("auto", "float32", "bfloat16", "float16"),
    "as": ("context", "latent"),
    "objective": (
        *("image-codec", "text-codec", "context-encoders", "image-context", "judge", "diffuser"),
        *("audio-codec", "audio-context", "speech-judge"),
    ),
    "parallel": ("ddp", "fsdp", "hsdp"),
    "protocol": ("quick", "full", "varied"),
    "long": ("cut", "skip", "refuse"),
    "format": ("webdataset", "parquet"),
}
"""Allowed values by option, for shell completion, which must not import the modules that define them."""


def among(name: str) -> Callable[[str], list[str]]:
    """Complete the values of an option."""

    def complete(incomplete: str) -> list[str]:
        return [choice for choice in CHOICES[name] if choice.startswith(incomplete)]

    return complete


def models(incomplete: str) -> list[str]:
    """Complete the names of shipped models."""
    from versatile_diffusion.shipped import shipped_models

    return [name for name in shipped_models() if name.startswith(incomplete)]


def tasks(incomplete: str) -> list[str]:
    """Complete the names of tasks."""
    return [name for name in TASKS if name.startswith(incomplete)]


def styles(context: typer.Context, incomplete: str) -> list[str]:
    """Complete the styles of the model given before."""
    from versatile_diffusion.shipped import styles_of

    return [style for style in styles_of(context.params.get("model") or DEFAULT) if style.startswith(incomplete)]


Model = Annotated[str, typer.Option(metavar="NAME", help="Shipped model, folder or hub id.", autocompletion=models)]
Revision = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Commit, tag or branch of a hub id."),
]
Device = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="cpu, cuda, mps or gpu; default: a GPU if available.", autocompletion=among("device")
    ),
]
Dtype = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="auto, float32, bfloat16 or float16; auto is the fastest for large models.",
        autocompletion=among("dtype"),
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Regenerate outputs that already exist.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
_STEPS = REQUEST["num_inference_steps"]
Steps = Annotated[
    int | None, typer.Option("--steps", "--num-inference-steps", min=1, max=int(_STEPS.most), help=_STEPS.help)
]
Preview = Annotated[
    bool | None,
    typer.Option("--preview/--no-preview", help="Preview images in the terminal; default: if supported."),
]


@dataclass(frozen=True)
class CommandOptions:
    """Options given to a generation command.

    Args:
        model: name, folder or hub id.
        out: output folder, `-` for stdout; None is `./out` for images.
        captions: write each caption beside its image.
        overwrite, device, dtype, preview, json, show_plan: how to run, and how to show the result.
        given: all other options given, by name; see `versatile_diffusion.controls`.
    """

    model: Model = DEFAULT
    out: Annotated[Path | None, typer.Option(help="Output folder; default for images: ./out; - is stdout.")] = None
    overwrite: Overwrite = False
    device: Device = None
    dtype: Dtype = "auto"
    preview: Preview = None
    json: Json = False
    captions: Annotated[
        bool, typer.Option("--captions", help="Write the caption of each image beside it, as x.txt beside x.png.")
    ] = False
    show_plan: Annotated[
        bool, typer.Option("--show-plan", help="Print the layer plan of each step (layer-level mixing).")
    ] = False
    given: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, named: Mapping[str, Any]) -> CommandOptions:
        """Build from the values of a command's parameters."""
        own = {name: value for name, value in named.items() if name in OWN}
        given = {
            name: value for name, value in named.items() if name not in OWN and value is not None and value is not False
        }
        return cls(**own, given=given)

    @property
    def to_stdout(self) -> bool:
        return self.out == STDOUT

    @property
    def count(self) -> int:
        """Number of outputs per input."""
        count: int = self.given.get("count", 1)
        return count

    @property
    def seed(self) -> int | None:
        return self.given.get("seed")

    @property
    def match_colours(self) -> str | None:
        return self.given.get("match_colours")

    def asked(self) -> dict[str, Any]:
        """Return every given option that affects the result, as plain JSON."""
        usual = {control.option: control.default for control in by_option(REQUEST).values()}
        given = {name: value for name, value in self.given.items() if value != usual.get(name)}
        own = {name: value for name in ("model", "dtype") if (value := getattr(self, name)) != OF_NONE[name]}
        return own | given

    def arguments(self) -> dict[str, Any]:
        """Return the given arguments of `VersatileDiffusionPipeline.generate`."""
        options = by_option(REQUEST)
        return {
            options[option].name: READ[option](value) if option in READ else value
            for option, value in self.given.items()
            if option in options
        }

    def of_condition(self, modality: str) -> dict[str, Any]:
        """Return the given options of the condition in this modality."""
        alone = Flow("", (modality,))
        return {c.name: self.given[c.option] for c in of_flow(alone, FLAGS) if c.option in self.given}


STDOUT = Path("-")
OF_NONE = {option.name: option.default for option in fields(CommandOptions)}
"""Defaults of its own options."""
OWN = tuple(option.name for option in fields(CommandOptions) if option.name != "given")
FLAGS: Mapping[str, Control] = {name: CONDITION[name] for name in ("mask", "focus")}
"""Condition options of a task's command; `versatile blend` has all."""
PLAN = "show_plan"


def parameters(flow: Flow | None, without: frozenset[str] = frozenset()) -> list[Parameter]:
    """Return the options of a flow's command (of all flows if None) as keyword parameters for typer."""
    hints = get_type_hints(CommandOptions, include_extras=True)
    own = {option.name: option.default for option in fields(CommandOptions) if option.name in OWN}
    if flow is not None:
        own["model"] = default_model(flow)
    if flow is not None and not REQUEST["layer_plan"].belongs(flow):
        del own[PLAN]
    if flow is None or not (MODALITIES[flow.data].plain and MODALITIES[flow.contexts[-1]].form != "typed"):
        del own["captions"]
    first = ("model",)
    taken = [(name, own[name], hints[name]) for name in first]
    for control in (one for one in of_flow(flow, RUN, REQUEST, FLAGS, RESULT) if not one.hidden):
        default = False if control.type is bool else None
        taken.append((control.option, default, annotation(control)))
    taken += [(name, default, hints[name]) for name, default in own.items() if name not in first]
    keyword = Parameter.KEYWORD_ONLY
    return [Parameter(name, keyword, default=d, annotation=kind) for name, d, kind in taken if name not in without]


def default_model(flow: Flow) -> str:
    """Return the model of this project for a flow."""
    named = (MODALITIES[modality].model for modality in (flow.data, *flow.contexts))
    return next(filter(None, named), DEFAULT)


def flag(name: str) -> str:
    """An option as it is typed; one of a letter has one dash."""
    return f"-{name}" if len(name) == 1 else f"--{name.replace('_', '-')}"


def annotation(control: Control) -> Any:
    """Return the typer annotation of a control."""
    names = [flag(name) for name in (control.option, *control.aliases)]
    if control.type is bool:
        return Annotated[bool, typer.Option(*names, help=control.help)]
    limits: dict[str, Any] = {"min": control.least, "max": None if control.step is None else control.most}
    complete = styles if control.name == "style" else among(control.name) if control.name in CHOICES else None
    told = typer.Option(
        *names, metavar=control.metavar, help=control.help, autocompletion=complete, **(limits if control.whole else {})
    )
    return Annotated[control.type | None, told]


def numbers(text: str, count: int, name: str, form: str) -> tuple[float, ...]:
    """Parse `count` numbers separated by colons; ValueError if that fails."""
    try:
        found = tuple(float(piece) for piece in text.split(":"))
    except ValueError:
        found = ()
    if len(found) != count:
        raise ValueError(f"{name} is {shown(text)}; it must be {form}, numbers separated by colons")
    return found


def plan(file: str) -> list[list[int]]:
    """Read a layer plan: one line per step (or one for all) with the condition index of each block."""
    if not Path(file).is_file():
        raise ValueError(f"--layer-plan is {file}, but there is no such file")
    try:
        rows = [[int(number) for number in line.split()] for line in Path(file).read_text("utf-8").splitlines()]
    except ValueError as error:
        raise ValueError(f"{file} is not a layer plan: one line of integers per step ({error})") from error
    return [row for row in rows if row]


def part(text: str) -> Any:
    """Parse a part of the canvas: a name, a box or a mask file."""
    if text in PARTS:
        return PARTS[text]
    if text.count(":") == 3 and not Path(text).exists():
        return numbers(text, 4, "a box", "LEFT:TOP:RIGHT:BOTTOM")
    if not Path(text).is_file():
        raise ValueError(unknown("part of the canvas", text, PARTS, BOX_OR_MASK))
    return text


READ: Mapping[str, Callable[[str], Any]] = {
    "guidance_interval": lambda text: numbers(text, 2, "--guidance-interval", "START:END"),
    "layer_plan": plan,
    "repaint": part,
}
"""Options whose command-line value needs parsing."""
