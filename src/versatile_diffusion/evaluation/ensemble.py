"""Ensembles of whole models that alternate the steps of one run: the paper's model-level mixing (figure 7), with Stable
Diffusion for the text and its image variations for the image. Baseline for mixing within one model."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiffusionPipeline
from PIL import Image
from torch import Tensor

from versatile_diffusion.diffuser.unet import MultiFlowUNet
from versatile_diffusion.evaluation.baselines import SAMPLERS, find_subject
from versatile_diffusion.evaluation.subjects import OwnModel
from versatile_diffusion.flow import Condition
from versatile_diffusion.modalities.bank import ModalityBank
from versatile_diffusion.modalities.base import Codec
from versatile_diffusion.pipeline.pipeline import VersatileDiffusionPipeline
from versatile_diffusion.pipeline.run import begin, prepare
from versatile_diffusion.records.record import fingerprint
from versatile_diffusion.sampling import seeds as randomness
from versatile_diffusion.sampling.denoise import Predict, denoise
from versatile_diffusion.sampling.rules import Cost
from versatile_diffusion.sampling.schedulers import named_scheduler
from versatile_diffusion.tasks import TASKS

MADE = "image"


@dataclass(frozen=True)
class EnsembleSampling:
    """Sampling settings of a run.

    Args:
        seeds: seeds of the items.
        steps, scheduler: sampling steps and sampler.
        scale: guidance scale.
    """

    seeds: Sequence[int]
    steps: int
    scale: float
    scheduler: str = "ddim"


class Member(ABC):
    """A whole model, and the modality it is conditioned on.

    Attributes:
        codec: image codec.
        shape: shape of a latent.
    """

    modality: str
    codec: torch.nn.Module
    shape: tuple[int, ...]

    @abstractmethod
    def scheduler(self, name: str) -> Any:
        """Return a fresh sampler with the model's training noise schedule."""

    @abstractmethod
    def guided(self, values: Sequence[Any], how: EnsembleSampling) -> Predict:
        """Return its guided prediction for one value per item."""

    @abstractmethod
    def decode(self, latents: Tensor) -> list[Image.Image]:
        """Decode latents to images."""


class OwnMember(Member):
    """A flow of a pipeline of this library."""

    def __init__(self, pipe: VersatileDiffusionPipeline, modality: str):
        self.pipe, self.modality = pipe, modality
        self.codec: Codec = pipe.bank.codecs[MADE]
        self.shape = tuple(self.codec.latent_shape())

    def scheduler(self, name: str) -> Any:
        return named_scheduler(name, self.pipe.scheduler.config)

    def guided(self, values: Sequence[Any], how: EnsembleSampling) -> Predict:
        options = {"num_inference_steps": how.steps, "guidance_scale": how.scale, "scheduler": how.scheduler}
        request = self.pipe.request(MADE, [Condition(self.modality, list(values))], options)
        run = prepare(self.pipe, request, list(how.seeds), None, None)
        return begin(self.pipe, run, randomness.generators(run.seeds))[-1]

    def decode(self, latents: Tensor) -> list[Image.Image]:
        return self.codec.decode(latents, None)


class DiffusersMember(Member):
    """A diffusers pipeline: Stable Diffusion, or its image variations."""

    def __init__(self, pipe: DiffusionPipeline, modality: str):
        self.pipe, self.modality = pipe, modality
        self.codec: Any = pipe.vae
        side = pipe.unet.config.sample_size
        self.shape = (pipe.unet.config.in_channels, side, side)

    def scheduler(self, name: str) -> Any:
        return SAMPLERS[name].from_config(self.pipe.scheduler.config)

    def guided(self, values: Sequence[Any], how: EnsembleSampling) -> Predict:
        tokens = ENCODED[self.modality](self.pipe, list(values))  # unconditional, then conditional

        def predict(latent: Tensor, timestep: Tensor) -> Tensor:
            both = torch.cat([latent, latent])
            null, cond = self.pipe.unet(both, timestep[0], encoder_hidden_states=tokens).sample.chunk(2)
            guided: Tensor = null + how.scale * (cond - null)
            return guided

        return predict

    def decode(self, latents: Tensor) -> list[Image.Image]:
        pixels = self.codec.decode(latents / self.codec.config.scaling_factor).sample
        images: list[Image.Image] = self.pipe.image_processor.postprocess(pixels, output_type="pil")
        return images


def _text_tokens(pipe: Any, texts: list[str]) -> Tensor:
    given, null = pipe.encode_prompt(texts, pipe.device, 1, True)
    return torch.cat([null, given])


ENCODED: Mapping[str, Callable[[Any, list[Any]], Tensor]] = {
    "text": _text_tokens,
    "image": lambda pipe, images: pipe._encode_image(images, pipe.device, 1, True),
}
"""Context tokens of diffusers pipelines, by conditioning modality."""


def find_members(names: Sequence[str]) -> list[Member]:
    """Load models of ours or baselines by name, folder or hub id; each is conditioned on a modality not used before.

    Raises:
        ValueError: an unknown model, or no modality left.
    """
    found: list[Member] = []
    for name in names:
        subject: Any = find_subject(name)
        able = [task.flow.contexts[0] for task in subject.tasks if task.flow.data == MADE]
        left = [modality for modality in able if modality not in [one.modality for one in found]]
        if not left:
            why = (
                f"its images are conditioned on {' or '.join(able)}, which is already used"
                if able
                else "it generates no images"
            )
            raise ValueError(f"{name} cannot be part of the ensemble: {why}")
        kind = OwnMember if isinstance(subject, OwnModel) else DiffusersMember
        found.append(kind(subject.pipe, left[0]))
    return found


def single_flow(pipe: VersatileDiffusionPipeline, task: str) -> VersatileDiffusionPipeline:
    """Build a single-flow model with the weights of `pipe`, to stand for a separately trained one.

    Raises:
        ValueError: the model does not support the task.
    """
    flow = TASKS[task].flow
    if not pipe.can(flow):
        raise ValueError(
            f"{pipe.model_name} does not support {task}; it supports: {', '.join(one.name for one in pipe.tasks())}"
        )
    pipe.load_now()
    config = dict(pipe.unet.config)
    config["data_streams"] = {flow.data: config["data_streams"][flow.data]}
    config["context_streams"] = {name: config["context_streams"][name] for name in flow.contexts}
    unet: Any = MultiFlowUNet.from_config(config).to(pipe.unet.dtype).eval()
    whole = pipe.unet.state_dict()
    unet.load_state_dict({name: whole[name] for name in unet.state_dict()})
    codecs = {flow.data: pipe.bank.codecs[flow.data]}
    bank = ModalityBank(codecs, {name: pipe.bank.encoders[name] for name in flow.contexts}).eval()
    kept = {"styles": pipe.config.styles, "defaults": pipe.config.defaults}
    return VersatileDiffusionPipeline(unet, bank, pipe.scheduler, **kept)


def turns(weights: Sequence[float], steps: int) -> list[int]:
    """Return which model takes each step, in proportion to the weights at any time; equal weights alternate."""
    taken, order = [0] * len(weights), []
    for step in range(1, steps + 1):
        owed = [step * weight / sum(weights) - had for weight, had in zip(weights, taken, strict=True)]
        order.append(owed.index(max(owed)))
        taken[order[-1]] += 1
    return order


@dataclass(frozen=True)
class Ensemble:
    """Whole models that share one run.

    Raises:
        ValueError: fewer than two models, or different latent shapes or noise schedules.
    """

    members: Sequence[Member]

    def __post_init__(self) -> None:
        if len(self.members) < 2:
            raise ValueError(f"an ensemble needs two or more models; got {len(self.members)}")
        first, *others = self.members
        noise = first.scheduler("ddim")
        for other in others:
            if other.shape != first.shape:
                raise ValueError(
                    f"the models of an ensemble must have equal latent shapes; got {first.shape} and {other.shape}"
                )
            theirs = other.scheduler("ddim")
            if theirs.config.prediction_type != noise.config.prediction_type or not torch.equal(
                theirs.alphas_cumprod, noise.alphas_cumprod
            ):
                raise ValueError(
                    "the models of an ensemble must have the same noise schedule and prediction type; these differ"
                )
        if len({fingerprint(member.codec) for member in self.members}) > 1:
            warnings.warn(
                "the models of this ensemble have different image codecs; using the first one to decode", stacklevel=2
            )

    @torch.no_grad()
    def make(
        self, given: Mapping[str, Sequence[Any]], how: EnsembleSampling, weights: Mapping[str, float] | None = None
    ) -> tuple[list[Image.Image], Cost]:
        """Generate an image per item; return the images and the cost per item (for our own models only).

        Args:
            given: values by modality, one per item.
            how: sampling settings.
            weights: weights by modality; default: equal.
        """
        first = self.members[0]
        scheduler = first.scheduler(how.scheduler)
        scheduler.set_timesteps(how.steps)
        shares = [1.0 if weights is None else weights[member.modality] for member in self.members]
        parts = [member.guided(given[member.modality], how) for member in self.members]
        order = turns(shares, len(scheduler.timesteps))
        turn = {int(time): parts[k] for time, k in zip(scheduler.timesteps, order, strict=True)}
        latent = randomness.normal(first.shape, randomness.generators(how.seeds)) * scheduler.init_noise_sigma
        for state in denoise(lambda x, time: turn[int(time[0])](x, time), scheduler, latent):
            latent = state.latent
        return first.decode(latent), sum((getattr(part, "cost", Cost()) for part in parts), start=Cost())
