"""Every generation option, declared once: name, type, range, default and help.

Requests are checked against this table. Command-line options, studio controls, sweep axes, record fields and the
arguments in `inspect.signature` are derived from it. A new option is one more field of `Controls` (or of
`flow.Condition`, with a row in `CONDITION`).

No heavy imports, so that the command line starts fast.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from versatile_diffusion.flow import MOST_GUIDANCE, Flow
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.tasks import NULLS

MOST_SIDE = 4096
"""Maximum side in pixels; anything larger is considered a mistake."""
MOST_ITEMS = 100_000
"""Maximum number of items per run."""
SCHEDULERS = ("ddim", "dpm++", "unipc")
MIXINGS = ("attention", "layer", "model", "join")
FAST = ("off", "guidance", "deep", "deep3", "both", "most", "one-pass", "1", "2", "4", "8")
COLOURS = ("simple", "histogram")
"""Names defined elsewhere, repeated to avoid imports."""
WHOLE = (0.0, 1.0)
PARTS: Mapping[str, tuple[float, float, float, float]] = {
    "left": (0, 0, 0.5, 1),
    "right": (0.5, 0, 1, 1),
    "top": (0, 0, 1, 0.5),
    "bottom": (0, 0.5, 1, 1),
    "middle": (0.25, 0.25, 0.75, 0.75),
}
"""Named parts of the canvas: boxes (left, top, right, bottom) as fractions."""
BOX_OR_MASK = ", a box as LEFT:TOP:RIGHT:BOTTOM as fractions of the canvas, or a mask (file)"
PART = f"{', '.join(PARTS)}{BOX_OR_MASK}"


@dataclass(frozen=True)
class Control:
    """Description of an option.

    Args:
        label: label on a page.
        help: help text, a phrase or an imperative.
        option: name on the command line and on a page, if not `name`.
        aliases: other common names, accepted on the command line; a single letter is a short option.
        least, most: inclusive range of a number.
        step: step of a slider.
        choices: allowed names.
        metavar: placeholder on the command line.
        several: whether it applies only to flows with several contexts.
        canvas: whether it applies only to flows whose data is a grid.
        hidden: whether it is available only in records and in Python.
        name, type, default: set from its field.
    """

    label: str
    help: str
    option: str = ""
    aliases: tuple[str, ...] = ()
    least: float = 0
    most: float = math.inf
    step: float | None = None
    choices: tuple[str, ...] = ()
    metavar: str | None = None
    several: bool = False
    canvas: bool = False
    hidden: bool = False
    name: str = ""
    type: type = str
    default: Any = None

    @property
    def is_number(self) -> bool:
        return self.type in (int, float)

    @property
    def whole(self) -> bool:
        """Whether it is an integer."""
        return self.type is int

    def belongs(self, flow: Flow) -> bool:
        """Return whether the option applies to a flow. Options that a modality lists as its own apply to flows that are
        conditioned on it, or generate it."""
        given, made = [MODALITIES[m] for m in flow.contexts if m in MODALITIES], MODALITIES.get(flow.data)
        if (self.several and len(flow.contexts) < 2) or (self.canvas and made is not None and not made.grid):
            return False
        if not any(self.name in record.own_options for record in MODALITIES.values()):
            return True
        names = frozenset[str]().union(*(record.context_options for record in given))
        if made is not None:
            names |= made.data_options | (made.pair_options if made in given else frozenset())
        return self.name in names


@dataclass(frozen=True, kw_only=True)
class Controls:
    """Options of a request, for all flows."""

    mixing: Annotated[
        str,
        Control(
            "Mixing level",
            "How several inputs are combined: attention, layer, model or join.",
            choices=MIXINGS,
            metavar="NAME",
            several=True,
        ),
    ] = "attention"
    num_inference_steps: Annotated[
        int,
        Control(
            "Steps",
            "Sampling steps; more is finer.",
            option="steps",
            aliases=("num_inference_steps",),
            least=1,
            most=1000,
            step=1,
        ),
    ] = 50
    guidance_scale: Annotated[
        float,
        Control(
            "CFG scale",
            "Classifier-free guidance scale; 1 disables guidance.",
            aliases=("cfg", "cfg_scale"),
            most=MOST_GUIDANCE,
            step=0.5,
        ),
    ] = 7.5
    guidance_interval: Annotated[
        Sequence[float],
        Control(
            "Guidance interval",
            "Apply guidance only in this part of sampling (0 = noise, 1 = done), e.g. 0.1:0.8; faster.",
            metavar="START:END",
        ),
    ] = WHOLE
    guidance_rescale: Annotated[
        float,
        Control(
            "Guidance rescale", "Reduces oversaturation at a high CFG scale: 0 (off) to 1; try 0.7.", most=1, step=0.05
        ),
    ] = 0.0
    fast: Annotated[
        str,
        Control(
            "Fast",
            "Skip work; changes the result: off, guidance, deep, deep3 or both; 4: the model distilled to 4 steps.",
            choices=FAST,
            metavar="NAME",
        ),
    ] = "off"
    num_outputs: Annotated[
        int,
        Control(
            "Batch size",
            "Number of outputs per input.",
            option="count",
            aliases=("n", "num_images_per_prompt"),
            least=1,
            most=MOST_ITEMS,
            step=1,
        ),
    ] = 1
    candidates: Annotated[
        int,
        Control(
            "Candidates",
            "Generate this many per output and keep the one that matches the inputs best.",
            least=1,
            most=MOST_ITEMS,
            step=1,
        ),
    ] = 1
    height: Annotated[int | None, Control("Height", "Height of the image in pixels.", least=1, most=MOST_SIDE)] = None
    width: Annotated[int | None, Control("Width", "Width of the image in pixels.", least=1, most=MOST_SIDE)] = None
    eta: Annotated[
        float, Control("Eta (DDIM)", "Noise added at each DDIM step: 0 none, 1 as much as DDPM.", most=1, step=0.05)
    ] = 0.0
    scheduler: Annotated[
        str | None,
        Control(
            "Sampler",
            "Sampler: ddim, dpm++ or unipc; the model's own if omitted.",
            aliases=("sampler",),
            choices=SCHEDULERS,
            metavar="NAME",
        ),
    ] = None
    null: Annotated[
        str | Mapping[str, str] | None,
        Control(
            "Unconditional embedding",
            "Unconditional embedding of a release: 2023 (empty text, zeros or black) or 2022 (grey).",
            choices=tuple(NULLS),
            metavar="NAME",
        ),
    ] = None
    negative_prompt: Annotated[
        str | Sequence[str] | None,
        Control("Negative prompt", "What should not appear.", aliases=("negative",)),
    ] = None
    style: Annotated[str | None, Control("Style", "Style of the model, e.g. noto.", metavar="NAME")] = None
    start: Annotated[Any, Control("Init image", "Image to start from.", aliases=("init_image",), metavar="FILE")] = None
    fidelity: Annotated[
        float,
        Control(
            "Fidelity",
            "Fidelity to the init image: 0 ignores it, 1 keeps it (1 - denoising strength).",
            most=1,
            step=0.05,
        ),
    ] = 0.0
    repaint: Annotated[
        Any,
        Control("Inpaint", f"Part of the init image to regenerate: {PART}.", choices=tuple(PARTS), metavar="PART"),
    ] = None
    temperature: Annotated[
        float | None, Control("Temperature", "Sampling temperature of words; 0 is greedy.", step=0.05)
    ] = None
    top_k: Annotated[int | None, Control("Top-k", "Top-k sampling of words; 0 disables.")] = None
    top_p: Annotated[
        float | None,
        Control("Top-p", "Top-p (nucleus) sampling of words; 1 disables.", most=1, step=0.05),
    ] = None
    max_length: Annotated[
        int | None,
        Control("Max length (tokens)", "Maximum length of a text in tokens, both ends included.", least=2),
    ] = None
    rank: Annotated[bool, Control("Sort by match", "Sort by similarity to the inputs; merge duplicates.")] = False
    layer_seed: Annotated[int, Control("Layer seed", "Seed for layer-level mixing.", most=2**64 - 1, several=True)] = 0
    layer_bits: Annotated[
        int,
        Control("Layer seed bits", "Bits of the layer seed that count: 64, or 32 as in earlier versions.", hidden=True),
    ] = 64
    layer_plan: Annotated[
        Sequence[Sequence[int]] | None,
        Control(
            "Layer plan",
            "Plan for layer-level mixing, as --show-plan prints it.",
            metavar="FILE",
            several=True,
        ),
    ] = None


def _controls(declared: type) -> dict[str, Control]:
    """Return the controls of a dataclass, with name, type and default from its fields."""
    hints = get_type_hints(declared, include_extras=True)
    found = {}
    for field in fields(declared):
        kind, control = get_args(hints[field.name])
        found[field.name] = replace(
            control, name=field.name, option=control.option or field.name, type=_plain(kind), default=field.default
        )
    return found


def _plain(kind: Any) -> type:
    """Return the type used for command-line values: the first plain type allowed, else a string."""
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    return next((one for one in kinds if one in (bool, int, float, str)), str)


REQUEST: Mapping[str, Control] = _controls(Controls)
"""Request options by name."""


def _by_name(**controls: Control) -> dict[str, Control]:
    return {name: replace(control, name=name, option=control.option or name) for name, control in controls.items()}


RUN: Mapping[str, Control] = _by_name(
    seed=Control("Seed", "Random seed; item k uses seed + k. Random if omitted.", type=int)
)
"""Options of `generate` outside the request."""

CONDITION: Mapping[str, Control] = _by_name(
    weight=Control("Weight", "Weight of this input relative to the others.", type=float, default=1.0, step=0.05),
    mask=Control("Mask", "Mask; white regions of the image are used.", metavar="FILE"),
    guidance_scale=Control(
        "Guidance scale for this input",
        "CFG scale for this input only.",
        option="scale",
        most=MOST_GUIDANCE,
        type=float,
    ),
    negative=Control("Negative of this input", "Negative prompt for this input only."),
    focus=Control("Focus", "Part of the image to use: 0 content, 0.5 all, 1 style.", most=1, step=0.05, type=float),
    start=Control("Start", "Start of its effect (0 = noise, 1 = done).", most=1, step=0.05, type=float, default=0.0),
    end=Control("End", "End of its effect (0 = noise, 1 = done).", most=1, step=0.05, type=float, default=1.0),
    region=Control("Region", f"Where it applies: {PART}.", choices=tuple(PARTS), metavar="PART", canvas=True),
)
"""Condition options by field of `flow.Condition`."""

RESULT: Mapping[str, Control] = _by_name(
    match_colours=Control(
        "Match colours", "Match the colours of the input image: simple or histogram.", choices=COLOURS, metavar="METHOD"
    ),
)
"""Post-processing options."""

SIZE = ("height", "width")
DECODING = ("temperature", "top_k", "top_p", "max_length")
OTHER_WORDS: Mapping[str, str] = {
    "guidance": "guidance_scale",
    "return": "return_dict",
    "prompt_strength": "text_to_image_strength",
    "callback": "callback_on_step_end",
    "callback_steps": "callback_on_step_end",
    "n_iter": "num_outputs",
    "batch_size": "num_outputs",
    "sampling_steps": "num_inference_steps",
    "num_steps": "num_inference_steps",
    "n_steps": "num_inference_steps",
    "timesteps": "num_inference_steps",
    "resolution": "height",
    "inpaint": "repaint",
    "mask_image": "repaint",
    "denoising_strength": "strength",
    "denoise": "strength",
    "manual_seed": "seed",
    "random_seed": "seed",
    "caption": "prompt",
    "images": "image",
}
"""What scripts call an argument that has another name here: for guesses, not taken."""
RAW = ("start", "repaint")
"""Options whose value may be an image or an array, recorded by hash."""


def of_flow(flow: Flow | None, *tables: Mapping[str, Control]) -> Iterator[Control]:
    """Yield the controls that apply to a flow; all if None."""
    for table in tables:
        yield from (control for control in table.values() if flow is None or control.belongs(flow))


def other_words() -> dict[str, str]:
    """What people call an argument of `generate`, to its name."""
    return {word: control.name for control in REQUEST.values() for word in control.aliases} | dict(OTHER_WORDS)


def by_option(*tables: Mapping[str, Control]) -> dict[str, Control]:
    """Return controls by command-line name."""
    return {control.option: control for table in tables for control in table.values()}
