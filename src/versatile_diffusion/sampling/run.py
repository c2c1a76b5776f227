"""One run of a pipeline: settled before the heavy work, then its steps."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.sampling import seeds
from versatile_diffusion.sampling.conditions import ZEROS, Encoding, GivenCondition, listed, texts_of, with_phrase
from versatile_diffusion.sampling.denoise import StepState, denoise, noised, start_step
from versatile_diffusion.sampling.guidance import guided
from versatile_diffusion.sampling.output import record_of
from versatile_diffusion.sampling.request import Request, null_of
from versatile_diffusion.sampling.schedulers import named_scheduler, scheduler_name, takes_eta

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
        start: the checked raw value, or latents, to begin from.
        latents: noise that was given.
        seeds: one per item.
        shape: of one latent.
        scheduler: fresh, with its timesteps set.
    """

    request: Request
    checked: list[GivenCondition]
    phrase: str | None
    nulls: list[str]
    start: Any
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
    def given(self) -> list[GivenCondition]:
        """The conditions with the phrase in their texts."""
        return self.checked if self.phrase is None else with_phrase(self.checked, self.phrase)

    @property
    def prompts(self) -> tuple[str | None, ...]:
        """Per item, the text that guides it."""
        copies = self.request.num_outputs
        return tuple(text for text in texts_of(self.given, len(self.seeds) // copies) for _ in range(copies))

    def record(self) -> dict[str, Any]:
        """Plain JSON that `replay` understands."""
        request = self.request
        return request.record() | {
            "data": request.data,
            "conditions": [condition.record() for condition in self.checked],
            "start": record_of(request.start, self.start),
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
    nulls = [null_of(request.flow, condition.modality) for condition in request.conditions]
    shape = tuple(pipe.bank.codecs[request.data].latent_shape(**request.size))
    if request.size and len(shape) == 1:
        raise ValueError(f"height and width do not apply: a {request.data} has no size in pixels")
    if request.decoding and len(shape) > 1:
        raise ValueError(f"{', '.join(request.decoding)}: only texts are decoded with these, not a {request.data}")
    items = _prompts(request, given, nulls) * request.num_outputs
    if latents is not None and tuple(latents.shape) != (items, *shape):
        raise ValueError(f"latents are {tuple(latents.shape)}; for {items} items they must be {(items, *shape)}")
    start = request.start
    if start is not None and not isinstance(start, Tensor):
        start = MODALITIES[request.data].check(start)
    elif start is not None and tuple(start.shape) not in (shape, (1, *shape), (items, *shape)):
        raise ValueError(f"start latents are {tuple(start.shape)}; they must be {shape}, or {(items, *shape)}")
    return Run(
        request,
        given,
        _phrase(pipe.config.styles, request.style, given),
        nulls,
        start,
        latents,
        seeds.item_seeds(items, seed, generator),
        shape,
        _scheduler(pipe, request),
    )


def begin(
    pipe: VersatileDiffusionPipeline, run: Run, sources: Sequence[torch.Generator]
) -> tuple[Tensor, Generator[StepState, Tensor | None, None]]:
    """The first latent (B, ...), and the steps from there; `sources` draw each item's noise."""
    request, device = run.request, pipe._execution_device
    copies = request.num_outputs
    encoding = Encoding(pipe.bank, len(run.seeds) // copies, copies, device, pipe.unet.dtype)
    negative = None if request.negative_prompt is None else listed(request.negative_prompt)
    guides = [
        encoding.guide(given, null, negative if _is_text(given, null) else None)
        for given, null in zip(run.given, run.nulls, strict=True)
        if given.condition.weight
    ]
    latent = seeds.normal(run.shape, sources) if run.latents is None else run.latents
    latent = latent.to(device, torch.float32)
    if run.start is not None:
        clean = run.start if isinstance(run.start, Tensor) else pipe.bank.codecs[request.data].encode([run.start])
        latent = noised(run.scheduler, clean.to(latent).expand_as(latent), latent, run.first)
    predict = guided(
        pipe.unet,
        guides,
        data=request.data,
        scale=request.guidance_scale,
        mixing=request.mixing,
        layer_seed=request.layer_seed,
    )

    def step_noise() -> Tensor:
        return seeds.normal(run.shape, sources).to(latent)

    return latent, denoise(predict, run.scheduler, latent, start=run.first, eta=request.eta, step_noise=step_noise)


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
    counts = [condition.count for condition in given]
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
        raise ValueError(f"unknown style {style!r}; this model has: {', '.join(styles) or 'no styles'}")
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
