"""One run of a pipeline: settled before the heavy work, then its steps."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from versatile_diffusion.choices import unknown
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.sampling import seeds
from versatile_diffusion.sampling.canvas import Part, Start
from versatile_diffusion.sampling.conditions import ZEROS, Encoding, GivenCondition, listed, texts_of, with_phrase
from versatile_diffusion.sampling.denoise import StepState, denoise, noised, start_step
from versatile_diffusion.sampling.guidance import Guidance, Guide, acts, guided
from versatile_diffusion.sampling.output import Output, converted, fingerprint, record_of
from versatile_diffusion.sampling.ranking import Ranked, best, check_comparable, ranked
from versatile_diffusion.sampling.request import Request, null_of
from versatile_diffusion.sampling.schedulers import named_scheduler, scheduler_name, takes_eta
from versatile_diffusion.version import __version__

if TYPE_CHECKING:
    from versatile_diffusion.sampling.pipeline import VersatileDiffusionPipeline


@dataclass(frozen=True)
class Run:
    """A request that a model can fulfil, and what was settled for it.

    Args:
        request: what is asked.
        checked: its conditions.
        phrase: of the style, added to every text.
        nulls: what stands for no guidance by each.
        regions: where on the canvas each acts; None for everywhere.
        start: what to begin from, if not from noise.
        latents: noise that was given.
        seeds: one per item.
        shape: of one latent.
        scheduler: fresh, with its timesteps set.
    """

    request: Request
    checked: list[GivenCondition]
    phrase: str | None
    nulls: list[str]
    regions: list[Part | None]
    start: Start | None
    latents: Tensor | None
    seeds: tuple[int, ...]
    shape: tuple[int, ...]
    scheduler: Any

    @property
    def first(self) -> int:
        """Number of steps left out at the noisy end, since there is a start."""
        return 0 if self.start is None else start_step(self.request.num_inference_steps, self.request.fidelity)

    @property
    def total(self) -> int:
        """Number of steps."""
        return len(self.scheduler.timesteps) - self.first

    @property
    def candidates(self) -> tuple[int, ...]:
        """Seeds of all that is made: those of each item's candidates, the first of which has the item's own."""
        return seeds.candidates(self.seeds, self.request.candidates)

    @property
    def given(self) -> list[GivenCondition]:
        """The conditions with the phrase in their texts."""
        return self.checked if self.phrase is None else with_phrase(self.checked, self.phrase)

    @property
    def prompts(self) -> tuple[str | None, ...]:
        """Per item, the text that guides it."""
        copies = self.request.num_outputs
        return tuple(text for text in texts_of(self.given, self.count) for _ in range(copies))

    @property
    def count(self) -> int:
        """Number of prompts."""
        return len(self.seeds) // self.request.num_outputs

    def record(self) -> dict[str, Any]:
        """Plain JSON that `replay` understands."""
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
        }


def prepare(
    pipe: VersatileDiffusionPipeline,
    request: Request,
    seed: int | Sequence[int] | None,
    generator: torch.Generator | Sequence[torch.Generator] | None,
    latents: Tensor | None,
) -> Run:
    """Settles everything that can be refused, before the heavy work.

    Raises:
        ValueError: the model, or the values given, do not allow the request.
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
    if latents is not None and (of := tuple(getattr(latents, "shape", ()))) != (made, *shape):
        raise ValueError(f"latents are {of or repr(latents)}; for {made} items they must be {(made, *shape)}")
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


def begin(
    pipe: VersatileDiffusionPipeline, run: Run, sources: Sequence[torch.Generator]
) -> tuple[Tensor, Generator[StepState, Tensor | None, None], Guidance]:
    """The first latent (B, ...), the steps from there, and what guides them; `sources` draw each item's noise."""
    request, device = run.request, pipe._execution_device
    latent = seeds.normal(run.shape, sources) if run.latents is None else run.latents
    latent, hold = latent.to(device, torch.float32), None
    guidance = guided(
        pipe.unet,
        _guides(pipe, run),
        data=request.data,
        scale=request.guidance_scale,
        mixing=request.mixing,
        layer_seed=request.layer_seed,
        layer_plan=request.layer_plan,
        interval=request.guidance_interval,
        rescale=request.guidance_rescale,
        timesteps=run.scheduler.timesteps.tolist(),
    )
    if run.start is not None:
        clean = run.start.latents(pipe.bank.codecs[request.data], latent)
        hold = run.start.hold(run.scheduler, clean, latent)
        latent = noised(run.scheduler, clean, latent, run.first)

    def step_noise() -> Tensor:
        return seeds.normal(run.shape, sources).to(latent)

    options: dict[str, Any] = {"start": run.first, "eta": request.eta, "step_noise": step_noise, "hold": hold}
    return latent, denoise(guidance, run.scheduler, latent, **options), guidance


def check_maker(pipe: VersatileDiffusionPipeline, settings: Mapping[str, Any]) -> None:
    """ValueError unless settings of an Output are of a model with these weights."""
    maker = settings.get("model")
    if not isinstance(maker, Mapping):
        raise ValueError("the settings do not say which model made the output")
    if (made_by := maker.get("fingerprint")) != fingerprint(pipe.unet, pipe.bank):
        raise ValueError(f"made by model {maker.get('name')!r} ({made_by}); the one loaded has other weights")


def finish(
    pipe: VersatileDiffusionPipeline,
    run: Run,
    latents: Tensor,
    sources: Sequence[torch.Generator],
    guidance: Guidance,
    output_type: str = "pil",
) -> Output:
    """What became of a run: the final latents (B, ...) decoded, the best of each item's candidates alone, ranked where
    that is asked for, in the form of `output_type` (see `VersatileDiffusionPipeline.generate`)."""
    request, bank = run.request, pipe.bank
    settings = {
        "library": f"versatile-diffusion {__version__}",
        "model": {"name": pipe.model_name, "fingerprint": fingerprint(pipe.unet, bank)},
        **run.record(),
    }
    values: Any = latents
    ranking: tuple[Ranked, ...] = ()
    if output_type != "latent" or request.candidates > 1:
        decoded = _decoded(pipe, run, latents, sources)
        if request.candidates > 1:
            kept = best(bank, request.data, decoded, run.given, run.count, request.candidates)
            settings["kept"] = [run.candidates[place] for place in kept]
            values = latents = latents[kept]
            decoded = [decoded[place] for place in kept]
        if request.rank:
            ranking = ranked(bank, request.data, decoded, run.given, run.count)
        if output_type == "context":
            values = encoded(pipe, request.data, decoded)
        elif output_type != "latent":
            values = converted(decoded, output_type)
    plan, cost = tuple(guidance.plans.values()), guidance.cost * request.candidates
    return Output(request.data, values, latents, settings, run.prompts, cost, plan, ranking)


def encoded(pipe: VersatileDiffusionPipeline, modality: str, values: Sequence[Any]) -> Float[Tensor, "b l d"]:
    """Context tokens of what was generated, as far as its encoder can read it."""
    encoder = pipe.bank.encoders[modality]
    return encoder.encode([encoder.fit(value) for value in values]).contiguous()


def _decoded(
    pipe: VersatileDiffusionPipeline, run: Run, latents: Tensor, sources: Sequence[torch.Generator]
) -> list[Any]:
    """Raw values, with what is kept of a start pasted over them."""
    codec = pipe.bank.codecs[run.request.data]
    values = codec.decode(latents, sources, **run.request.decoding)
    return values if run.start is None else run.start.finish(codec, values)


def _guides(pipe: VersatileDiffusionPipeline, run: Run) -> list[Guide]:
    encoding = Encoding(pipe.bank, run.count, run.request.copies, pipe._execution_device, pipe.unet.dtype)
    negative = None if run.request.negative_prompt is None else listed(run.request.negative_prompt)
    return [
        encoding.guide(
            given,
            null,
            negative if _is_text(given, null) else None,
            None if region is None else region.share(*run.shape[-2:]),
        )
        for given, null, region in zip(run.given, run.nulls, run.regions, strict=True)
        if given.condition.weight
    ]


def _region(given: Any, data: str, shape: tuple[int, ...]) -> Part | None:
    return None if given is None else Part.check(given, "region", data, shape)


def _shape(pipe: VersatileDiffusionPipeline, request: Request) -> tuple[int, ...]:
    """Of one latent, which both the codec and the levels of the diffuser must be able to make."""
    codec = pipe.bank.codecs[request.data]
    shape = tuple(codec.latent_shape(**request.size))
    if request.size and len(shape) == 1:
        raise ValueError(f"height and width do not apply: a {request.data} has no size in pixels")
    if request.decoding and len(shape) > 1:
        raise ValueError(f"{', '.join(request.decoding)}: these are for texts, not for modality {request.data!r}")
    divisor = 2 ** sum(stage.kind == "down" for stage in pipe.unet.plan)
    if len(shape) > 1 and any(side % divisor for side in shape[1:]):
        rows, columns = shape[1:]
        factor = request.size.get("height", 0) // rows or request.size.get("width", 0) // columns
        pixels = f" (of {divisor * factor} pixels)" if factor else ""
        raise ValueError(
            f"a picture of this size has {columns} x {rows} latents, and the levels of this diffuser need multiples of "
            f"{divisor}{pixels}"
        )
    return shape


def _check_trajectory(pipe: VersatileDiffusionPipeline, run: Run) -> None:
    """What acts for a part of the trajectory must do so in one of its steps, and a layer plan must fit them all."""
    steps = len(run.scheduler.timesteps)
    for condition in run.request.conditions if run.total > 0 else ():
        part = condition.start, condition.end
        if condition.weight and not any(acts(*part, step, steps) for step in range(run.first, steps)):
            raise ValueError(
                f"a {condition.modality} condition acts from {part[0]:g} to {part[1]:g} of the trajectory, and none of "
                f"the {run.total} steps lies there; widen it, or take more steps"
            )
    if (plan := run.request.layer_plan) is None:
        return
    blocks = sum(stage.attention is not None for stage in pipe.unet.plan)
    contexts = sum(condition.weight > 0 for condition in run.request.conditions)
    if len(plan) not in (1, steps) or any(len(choices) != blocks for choices in plan):
        raise ValueError(f"layer_plan must have one list of {blocks} choices, or {steps}: one for each step")
    if any(choice not in range(contexts) for choices in plan for choice in choices):
        raise ValueError(f"choices of layer_plan are numbers of conditions with a weight above 0: 0 to {contexts - 1}")


def _check_streams(pipe: VersatileDiffusionPipeline, request: Request) -> None:
    able = f"it can do: {', '.join(task.name for task in pipe.tasks()) or 'no task'}"
    if request.data not in pipe.unet.data or request.data not in pipe.bank.codecs:
        raise ValueError(f"this model cannot generate {request.data!r}; {able}")
    for condition in request.conditions:
        if condition.modality not in pipe.unet.context:
            raise ValueError(f"this model cannot be guided by {condition.modality!r}; {able}")
        if condition.tokens is None and condition.modality not in pipe.bank.encoders:
            raise ValueError(f"this model has no context encoder for {condition.modality!r}, so give tokens; {able}")


def _prompts(request: Request, given: Sequence[GivenCondition], nulls: Sequence[str]) -> int:
    """The number of prompts, to which every list of values must fit."""
    counts = [count for condition in given for count in condition.counts]
    if request.negative_prompt is not None:
        if not any(_is_text(condition, null) for condition, null in zip(given, nulls, strict=True)):
            raise ValueError("negative_prompt stands in for an empty text, and no condition is a text")
        counts.append(len(listed(request.negative_prompt)))
    if set(counts) - {1, max(counts)}:
        raise ValueError(f"values are given for {sorted(set(counts))} prompts; give one value, or one per prompt")
    return max(counts)


def _is_text(given: GivenCondition, null: str) -> bool:
    return null != ZEROS and isinstance(MODALITIES[given.condition.modality].blanks[null], str)


def _phrase(styles: dict[str, str], style: str | None, given: Sequence[GivenCondition]) -> str | None:
    if style is None:
        return None
    if style not in styles:
        raise ValueError(unknown("style", style, styles))
    if not any(texts_of(given, 1)):
        raise ValueError("style applies to texts, and no condition is one")
    return styles[style]


def _scheduler(pipe: VersatileDiffusionPipeline, request: Request) -> Any:
    """A fresh scheduler, since some of them remember earlier steps."""
    config = pipe.scheduler.config
    scheduler = (
        named_scheduler(request.scheduler, config) if request.scheduler else type(pipe.scheduler).from_config(config)
    )
    if request.eta > 0 and not takes_eta(scheduler):
        raise ValueError(
            f"eta is {request.eta}, but scheduler {request.scheduler!r} adds no noise; use 'ddim', or eta 0"
        )
    scheduler.set_timesteps(request.num_inference_steps)
    return scheduler
