"""One run of a pipeline: preparation, then its steps."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from versatile_diffusion.choices import chosen
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.numeric import as_tensor, check_finite
from versatile_diffusion.pipeline.canvas import CanvasPart, Start
from versatile_diffusion.pipeline.conditions import ZEROS, Encoding, GivenCondition, as_items, texts_of, with_phrase
from versatile_diffusion.pipeline.model import Model
from versatile_diffusion.pipeline.opening import Opening
from versatile_diffusion.pipeline.output import Output, convert_values
from versatile_diffusion.pipeline.precision import Precision
from versatile_diffusion.pipeline.ranking import Ranked, best, check_comparable, rank_values
from versatile_diffusion.pipeline.request import Request, null_of
from versatile_diffusion.printable import shown
from versatile_diffusion.records.record import record_of
from versatile_diffusion.sampling import seeds
from versatile_diffusion.sampling.denoise import StepState, start_step, steps_with, walk
from versatile_diffusion.sampling.guidance import Guidance
from versatile_diffusion.sampling.rules import Guide, acts
from versatile_diffusion.sampling.schedulers import named_scheduler, scheduler_name, takes_eta
from versatile_diffusion.version import __version__


@dataclass(frozen=True)
class Run:
    """A prepared request.

    Args:
        request: the request.
        checked: its checked conditions.
        phrase: style phrase, appended to every prompt.
        nulls: null context of each condition.
        regions: region of each condition on the canvas; None for everywhere.
        start: init value, if any.
        latents: initial noise, if given.
        seeds: seed of each item.
        shape: shape of one latent.
        scheduler: fresh scheduler with its timesteps set.
    """

    request: Request
    checked: list[GivenCondition]
    phrase: str | None
    nulls: list[str]
    regions: list[CanvasPart | None]
    start: Start | None
    latents: Tensor | None
    seeds: tuple[int, ...]
    shape: tuple[int, ...]
    scheduler: Any

    @property
    def first(self) -> int:
        """Number of steps skipped at the noisy end because of an init value."""
        return 0 if self.start is None else start_step(len(self.scheduler.timesteps), self.request.fidelity)

    @property
    def total(self) -> int:
        """Number of steps."""
        return len(self.scheduler.timesteps) - self.first

    @property
    def candidates(self) -> tuple[int, ...]:
        """Seeds of all candidates of all items; an item's first candidate has the item's seed."""
        return seeds.candidates(self.seeds, self.request.candidates)

    @property
    def given(self) -> list[GivenCondition]:
        """The conditions with the style phrase in their prompts."""
        return self.checked if self.phrase is None else with_phrase(self.checked, self.phrase)

    @property
    def prompts(self) -> tuple[str | None, ...]:
        """Prompt of each item."""
        copies = self.request.num_outputs
        return tuple(text for text in texts_of(self.given, self.count) for _ in range(copies))

    @property
    def count(self) -> int:
        """Number of prompts."""
        return len(self.seeds) // self.request.num_outputs

    def record(self) -> dict[str, Any]:
        """Plain JSON for `replay`."""
        request = self.request
        start = {"start": None, "repaint": None} if self.start is None else self.start.record()
        return request.record() | {
            "data": request.data,
            "conditions": [
                condition.record() | ({} if region is None else {"region": region.record()})
                for condition, region in zip(self.checked, self.regions, strict=True)
            ],
            **start,
            "latents": record_of(None, self.latents),
            "scheduler": request.scheduler or scheduler_name(self.scheduler),
            "seeds": list(self.seeds),
            "seed_bits": seeds.BITS,
            "start_steps": self.first,
        }


def prepare(
    pipe: Model,
    request: Request,
    seed: seeds.Seed,
    generator: torch.Generator | Sequence[torch.Generator] | None,
    latents: Any,
) -> Run:
    """Check and prepare everything before the expensive work.

    Raises:
        ValueError: the model or the given values do not support the request.
    """
    _check_streams(pipe, request)
    given = [GivenCondition.check(condition) for condition in request.conditions]
    nulls = [null_of(request.flow, condition.modality, request.null) for condition in request.conditions]
    shape = _shape(pipe, request)
    if request.rank or request.candidates > 1:
        check_comparable(pipe.bank, request.data, given)
    prompts = _prompts(request, given, nulls)
    items = prompts * request.num_outputs
    made = items * request.candidates
    if latents is not None:
        latents = as_tensor(latents, "latents")
        if (of := tuple(latents.shape)) != (made, *shape):
            raise ValueError(f"latents are {of}; for {made} items they must be {(made, *shape)}")
        check_finite(latents, "the initial latents")
    start = None
    if request.start is not None:
        start = Start.check(request.start, request.repaint, request.data, request.size, shape, (prompts, items, made))
    run = Run(
        request,
        given,
        _phrase(pipe.config.styles, request.style, given),
        nulls,
        [_region(condition.region, request.data, shape) for condition in request.conditions],
        start,
        latents,
        seeds.item_seeds(items, seed, generator),
        shape,
        _scheduler(pipe, request),
    )
    _check_trajectory(pipe, run)
    return run


def open_run(pipe: Model, run: Run, sources: Sequence[torch.Generator]) -> Opening:
    """What a run begins with: its conditions encoded, its start too, and noise that `sources` draw, one for each item
    (see `Run.candidates`)."""
    latent, device = seeds.normal(run.shape, sources) if run.latents is None else run.latents, pipe._execution_device
    latent = latent.to(device, torch.float32)
    guides = _guides(pipe, run, device)
    clean = None if run.start is None else run.start.latents(pipe.bank.codecs[run.request.data], latent)
    return Opening(run, latent, guides, clean)


def begin(
    pipe: Model, run: Run, sources: Sequence[torch.Generator]
) -> tuple[Tensor, Generator[StepState, Tensor | None, None], Guidance]:
    """Return the initial latents (B, ...), the remaining steps, and the guides; `sources` draw each item's noise."""
    opening = open_run(pipe, run, sources)
    guidance = opening.guidance(pipe.network(run.request.fast))
    return opening.latent, walk(guidance, opening.trajectory(sources)), guidance


def precision(pipe: Model) -> Precision:
    """What a model computes in."""
    return Precision(pipe.unet.dtype, next((part.dtype for part in pipe.bank.parts.values()), pipe.unet.dtype))


def check_maker(pipe: Model, settings: Mapping[str, Any]) -> None:
    """Raise ValueError unless an output's settings come from a model with these weights."""
    maker = settings.get("model")
    if not isinstance(maker, Mapping):
        raise ValueError("the settings do not name the output's model")
    _check_form(pipe, settings)
    if (made_by := maker.get("fingerprint")) != pipe.fingerprint():
        if (then := maker.get("dtype")) not in (None, now := precision(pipe).record()):
            raise ValueError(
                f"generated in dtype {shown(then)}, but the model is loaded in {shown(now)}; load it with "
                f"dtype={shown(then)}"
            )
        raise ValueError(
            f"generated by model {shown(maker.get('name'))} ({made_by}); the loaded model has other weights"
        )


def _check_form(pipe: Model, settings: Mapping[str, Any]) -> None:
    """Raise ValueError unless the model has the distilled form that an output was generated with."""
    form = pipe.form_of(settings.get("fast"))
    now, then = None if form is None else form.digest(), settings.get("distilled")
    if now != then:
        raise ValueError(f"generated with another distilled form ({shown(then)}) than this model's ({shown(now)})")


def finish(
    pipe: Model,
    run: Run,
    latents: Tensor,
    sources: Sequence[torch.Generator],
    guidance: Guidance,
    output_type: str = "pil",
) -> Output:
    """Decode the final latents (B, ...), keep each item's best candidate, rank if requested, and convert to
    `output_type` (see `VersatileDiffusionPipeline.generate`)."""
    request, bank = run.request, pipe.bank
    check_finite(latents, f"the {request.data} latents after the last step", pipe.unet)
    settings = {
        "library": f"versatile-diffusion {__version__}",
        "model": {"name": pipe.model_name, "fingerprint": pipe.fingerprint(), "dtype": precision(pipe).record()},
        **run.record(),
    }
    if (form := pipe.form_of(request.fast)) is not None and form.adapter is not None:
        settings["distilled"] = form.digest()
    values: Any = latents
    ranking: tuple[Ranked, ...] = ()
    considered: tuple[Ranked, ...] = ()
    if output_type != "latent" or request.candidates > 1:
        decoded = _decode(pipe, run, latents, sources)
        if request.candidates > 1:
            kept = best(bank, request.data, decoded, run.given, run.count, request.candidates)
            if MODALITIES[request.data].plain:
                considered = rank_values(bank, request.data, decoded, run.given, run.count)
            settings["kept"] = [run.candidates[place] for place in kept]
            values = latents = latents[kept]
            decoded = [decoded[place] for place in kept]
        if request.rank:
            ranking = rank_values(bank, request.data, decoded, run.given, run.count)
        if output_type == "context":
            values = encode_values(pipe, request.data, decoded)
        elif output_type != "latent":
            values = convert_values(decoded, request.data, output_type)
    plan, cost = tuple(guidance.plans.values()), guidance.cost * request.candidates
    return Output(request.data, values, latents, settings, run.prompts, cost, plan, ranking, considered)


def encode_values(pipe: Model, modality: str, values: Sequence[Any]) -> Float[Tensor, "b l d"]:
    """Encode generated values to context tokens."""
    encoder = pipe.bank.encoders[modality]
    tokens: Tensor = encoder.encode([encoder.fit(value) for value in values])
    return tokens.contiguous()


def _decode(pipe: Model, run: Run, latents: Tensor, sources: Sequence[torch.Generator]) -> list[Any]:
    """Decode to raw values, with the kept part of an init value pasted over them."""
    codec = pipe.bank.codecs[run.request.data]
    values = codec.decode(latents, sources, **run.request.decoding)
    return values if run.start is None else run.start.finish(codec, values)


def _guides(pipe: Model, run: Run, device: torch.device) -> list[Guide]:
    encoding = Encoding(pipe.bank, run.count, run.request.copies, device, pipe.unet.dtype)
    negative = None if run.request.negative_prompt is None else as_items(run.request.negative_prompt)
    return [
        encoding.guide(
            given,
            null,
            negative if _takes_prompt(given, null) else None,
            None if region is None else region.share(*run.shape[-2:]),
        )
        for given, null, region in zip(run.given, run.nulls, run.regions, strict=True)
        if given.condition.weight
    ]


def _region(given: Any, data: str, shape: tuple[int, ...]) -> CanvasPart | None:
    return None if given is None else CanvasPart.check(given, "region", data, shape)


def _shape(pipe: Model, request: Request) -> tuple[int, ...]:
    """Return the shape of one latent, checked against the codec and the diffuser's levels."""
    codec, record = pipe.bank.codecs[request.data], MODALITIES[request.data]
    if request.size and not record.size:
        raise ValueError(f"height and width do not apply to {request.data}")
    shape = tuple(codec.latent_shape(**request.size))
    if strange := [name for name in request.decoding if name not in record.decoding]:
        owners = ", ".join(other.plural for other in MODALITIES.values() if strange[0] in other.decoding)
        raise ValueError(f"{', '.join(strange)}: only for {owners}, not for modality {shown(request.data)}")
    divisor = 2 ** sum(stage.kind == "down" for stage in pipe.unet.plan)
    if record.grid and any(side % divisor for side in shape[1:]):
        rows, columns = shape[1:]
        factor = request.size.get("height", 0) // rows or request.size.get("width", 0) // columns
        pixels = f" (of {divisor * factor} pixels)" if factor else ""
        raise ValueError(
            f"an image of this size has {columns} x {rows} latents, but this diffuser needs multiples of {divisor}"
            f"{pixels}"
        )
    return shape


def _check_trajectory(pipe: Model, run: Run) -> None:
    """Check that every partial condition covers at least one step, and that a layer plan fits the steps."""
    steps = len(run.scheduler.timesteps)
    for condition in run.request.conditions if run.total > 0 else ():
        part = condition.start, condition.end
        if condition.weight and not any(acts(*part, step, steps) for step in range(run.first, steps)):
            raise ValueError(
                f"a {condition.modality} condition applies from {part[0]:g} to {part[1]:g} of the trajectory, which "
                f"contains none of the {run.total} steps; widen it, or use more steps"
            )
    if (plan := run.request.layer_plan) is None:
        return
    blocks = sum(stage.attention is not None for stage in pipe.unet.plan)
    contexts = sum(condition.weight > 0 for condition in run.request.conditions)
    if len(plan) not in (1, steps) or any(len(choices) != blocks for choices in plan):
        raise ValueError(f"layer_plan must have one list of {blocks} choices, or {steps}, one per step")
    if any(choice not in range(contexts) for choices in plan for choice in choices):
        raise ValueError(f"layer_plan must contain indices of conditions with weight above 0: 0 to {contexts - 1}")


def _check_streams(pipe: Model, request: Request) -> None:
    able = f"it supports: {', '.join(task.name for task in pipe.tasks()) or 'no task'}"
    if request.data not in pipe.unet.data or request.data not in pipe.bank.codecs:
        raise ValueError(f"this model cannot generate {shown(request.data)}{_other_for(request.data)}; {able}")
    for condition in request.conditions:
        if condition.modality not in pipe.unet.context:
            other = _other_for(condition.modality)
            raise ValueError(f"this model cannot be conditioned on {shown(condition.modality)}{other}; {able}")
        if condition.tokens is None and condition.modality not in pipe.bank.encoders:
            raise ValueError(
                f"this model has no context encoder for {shown(condition.modality)}, so pass tokens; {able}"
            )


def _other_for(modality: str) -> str:
    """Name the model of this project that has a modality, if it is not the usual one."""
    known = MODALITIES.get(modality)
    return f" ({known.model} can)" if known is not None and known.model else ""


def _prompts(request: Request, given: Sequence[GivenCondition], nulls: Sequence[str]) -> int:
    """Return the number of prompts, checking all list lengths."""
    counts = [count for condition in given for count in condition.counts]
    if request.negative_prompt is not None:
        if not any(_takes_prompt(condition, null) for condition, null in zip(given, nulls, strict=True)):
            raise ValueError("negative_prompt needs a text condition")
        counts.append(len(as_items(request.negative_prompt)))
    if set(counts) - {1, max(counts)}:
        raise ValueError(f"values are given for {sorted(set(counts))} prompts; give one value each, or one per prompt")
    return max(counts)


def _takes_prompt(given: GivenCondition, null: str) -> bool:
    """Return whether a negative prompt can replace the null context of a condition."""
    return null != ZEROS and "negative_prompt" in MODALITIES[given.condition.modality].context_options


def _phrase(styles: dict[str, str], style: str | None, given: Sequence[GivenCondition]) -> str | None:
    if style is None:
        return None
    chosen("style", style, styles)
    if not any(texts_of(given, 1)):
        raise ValueError("style needs a text condition")
    return styles[style]


def _scheduler(pipe: Model, request: Request) -> Any:
    """Return a fresh scheduler, since some keep state."""
    config = pipe.scheduler.config
    scheduler = (
        named_scheduler(request.scheduler, config) if request.scheduler else type(pipe.scheduler).from_config(config)
    )
    if request.eta > 0 and not takes_eta(scheduler):
        raise ValueError(
            f"eta is {request.eta}, but scheduler {shown(request.scheduler)} adds no noise; use 'ddim', or eta 0"
        )
    if (form := pipe.form_of(request.fast)) is not None:
        scheduler = form.spaced(scheduler)
    scheduler.set_timesteps(steps_with(request.num_inference_steps, request.fidelity))
    return scheduler
