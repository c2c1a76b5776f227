"""`versatile blend`: any number of texts and pictures together, each with its own share and controls."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from versatile_diffusion.choices import unknown
from versatile_diffusion.cli.generate import Job, produce
from versatile_diffusion.cli.inputs import one_input
from versatile_diffusion.cli.options import Options, numbers, parameters, part
from versatile_diffusion.flow import Condition

FORM = "VALUE[@WEIGHT[,NAME=VALUE...]]"
SPEC = re.compile(r"(?P<value>.*)@(?P<weight>-?[0-9]*\.?[0-9]+)(?P<controls>(?:,\s*[a-z]+(?:=[^,]*)?)*)", re.DOTALL)


def _number(text: str, name: str) -> float:
    return numbers(text, 1, name, "a number")[0]


def _focus(text: str, name: str) -> Any:
    """A position of the dial, or `CONVENTION:LEVEL`."""
    from versatile_diffusion.sampling.focus import Focus

    convention, colon, level = text.rpartition(":")
    return Focus(_number(level, name), convention) if colon else _number(text, name)


CONTROLS: Mapping[str, tuple[str, Callable[[str, str], Any]]] = {
    "scale": ("guidance_scale", _number),
    "negative": ("negative", lambda text, name: text),
    "mask": ("mask", lambda text, name: text),
    "focus": ("focus", _focus),
    "start": ("start", _number),
    "end": ("end", _number),
    "region": ("region", lambda text, name: part(text)),
}
"""Controls by their name on the command line: the field of a Condition, and how it is read."""


def condition(modality: str, spec: str) -> Condition:
    """What `VALUE[@WEIGHT[,NAME=VALUE...]]` stands for, such as `a car@0.3,scale=9,end=0.5`.

    Only a last @ that a number follows divides, so texts and file names may hold others.

    Raises:
        ValueError: an unknown control, or a value that it does not take.
    """
    match = SPEC.fullmatch(spec)
    if match is None:
        return Condition(modality, one_input(modality, spec).value)
    controls: dict[str, Any] = {}
    for control in match["controls"].split(",")[1:]:
        name, _, text = control.strip().partition("=")
        if name not in CONTROLS:
            raise ValueError(unknown("control", name, CONTROLS, f"; in {spec!r}"))
        field, read = CONTROLS[name]
        controls[field] = read(text, f"{name} in {spec!r}")
    return Condition(modality, one_input(modality, match["value"]).value, weight=float(match["weight"]), **controls)


def blend(**named: Any) -> None:
    """Make pictures (or texts) from any number of texts and pictures together.

    Each is VALUE@WEIGHT: the weights are shares, so 0.3 and 0.7 are the same as 3 and 7, and 0 leaves one out. After
    the weight follow controls of its own, divided by commas: scale=9 (how closely to follow it), negative=TEXT or FILE
    (what to keep away from), mask=FILE (what of a picture counts: white does), focus=0.2 (0 what is shown, 0.5 all, 1
    its style; or paper:-2 to paper:2), start=0 and end=0.5 (when it acts: 0 noise, 1 done), region=left (where it acts:
    a name, a box 0:0:0.5:1, or a mask).
    """
    specs = {modality: named.pop(modality) for modality in CONTEXTS}
    data, conditions = named.pop("to"), [condition(m, spec) for m, specs in specs.items() for spec in specs or ()]
    if data not in OUTPUTS:
        raise ValueError(unknown("--to", data, OUTPUTS))
    if not conditions:
        raise ValueError("nothing to blend; give --text and --image, each as often as you like")
    produce("blend", data, [Job(conditions)], Options(**named))


CONTEXTS = {
    "text": Annotated[list[str] | None, typer.Option(metavar="TEXT@WEIGHT", help="A text that guides; may repeat.")],
    "image": Annotated[list[str] | None, typer.Option(metavar="FILE@WEIGHT", help="A picture; may repeat.")],
}
OUTPUTS = ("image", "text")
_TAKEN = [
    *(inspect.Parameter(m, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=a) for m, a in CONTEXTS.items()),
    inspect.Parameter(
        "to",
        inspect.Parameter.KEYWORD_ONLY,
        default="image",
        annotation=Annotated[str, typer.Option(help="What to make: image or text.")],
    ),
    *parameters(None, without=frozenset({"mask", "focus", "overwrite"})),
]
blend.__signature__ = inspect.Signature(_TAKEN)  # type: ignore[attr-defined]
blend.__annotations__ = {parameter.name: parameter.annotation for parameter in _TAKEN}
