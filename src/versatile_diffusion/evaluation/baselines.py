"""Baselines: Stable Diffusion, its image variations and BLIP, from folders or the hub."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    ConfigMixin,
    DDIMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    UniPCMultistepScheduler,
)
from transformers import AutoTokenizer, BlipForConditionalGeneration, BlipImageProcessorPil

from versatile_diffusion.evaluation.networks import short_name
from versatile_diffusion.evaluation.protocol import Protocol
from versatile_diffusion.evaluation.subjects import OwnModel, Subject
from versatile_diffusion.pipeline.models import fetch_model, find_model, is_ours
from versatile_diffusion.pipeline.pipeline import VersatileDiffusionPipeline
from versatile_diffusion.reading import read_json, reading
from versatile_diffusion.records.record import fingerprint
from versatile_diffusion.sampling.seeds import generators
from versatile_diffusion.shipped import INDEX
from versatile_diffusion.tasks import TASKS, Task

NAMED = {
    "stable-diffusion-v1-4": "CompVis/stable-diffusion-v1-4",
    "sd-image-variations": "lambdalabs/sd-image-variations-diffusers",
    "blip": "Salesforce/blip-image-captioning-base",
}
"""Baseline names to hub ids."""
SAMPLERS: Mapping[str, type[ConfigMixin]] = {
    "ddim": DDIMScheduler,
    "dpm++": DPMSolverMultistepScheduler,
    "unipc": UniPCMultistepScheduler,
}
GIVEN = {"text": "prompt", "image": "image"}
"""Name of the conditioning argument in diffusers pipelines."""
LONGEST = 24  # maximum tokens of a caption


class DiffusersBaseline(Subject):
    """Diffusers pipeline that generates images from prompts or images."""

    def __init__(self, folder: str, task: Task):
        self.pipe = DiffusionPipeline.from_pretrained(folder, safety_checker=None, requires_safety_checker=False)
        self.pipe.set_progress_bar_config(disable=True)
        self.name, self.tasks = Path(folder).name, (task,)
        self.network, self.hash = self.pipe, fingerprint(self.pipe.unet, self.pipe.vae)
        self.trained_with = self.pipe.scheduler.config

    def make(self, task: Task, given: Sequence[Any], seeds: Sequence[int], protocol: Protocol) -> list[Any]:
        self.pipe.scheduler = SAMPLERS[protocol.scheduler].from_config(self.trained_with)
        guide = {GIVEN[task.flow.contexts[0]]: list(given)}
        guidance = self.guidance(task, protocol)
        return self.pipe(
            **guide, num_inference_steps=protocol.steps, guidance_scale=guidance, generator=generators(seeds)
        ).images

    def guidance(self, task: Task, protocol: Protocol) -> float:
        return task.guidance_scale if protocol.guidance_scale is None else protocol.guidance_scale


class BlipBaseline(Subject):
    """BLIP captioning, greedy."""

    def __init__(self, folder: str, task: Task):
        self.network = BlipForConditionalGeneration.from_pretrained(folder).eval()  # nosec B615 # a local folder
        self.read = BlipImageProcessorPil.from_pretrained(folder)  # nosec B615 # a local folder
        self.words = AutoTokenizer.from_pretrained(folder)  # nosec B615 # a local folder
        self.name, self.tasks, self.hash = Path(folder).name, (task,), fingerprint(self.network)

    @torch.no_grad()
    def make(self, task: Task, given: Sequence[Any], seeds: Sequence[int], protocol: Protocol) -> list[Any]:
        seen = self.read(images=list(given), return_tensors="pt")["pixel_values"].to(self.device)
        ids = self.network.generate(pixel_values=seen, max_new_tokens=LONGEST, num_beams=1, do_sample=False)
        return [text.strip() for text in self.words.batch_decode(ids, skip_special_tokens=True)]

    def guidance(self, task: Task, protocol: Protocol) -> None:
        return None


BASELINES: dict[str, tuple[Callable[[str, Task], Subject], str]] = {
    "StableDiffusionPipeline": (DiffusersBaseline, "text-to-image"),
    "StableDiffusionImageVariationPipeline": (DiffusersBaseline, "image-variation"),
    "blip": (BlipBaseline, "image-to-text"),
}
"""Loader and task, by the class in `model_index.json` or the type in `config.json`."""


def find_subject(name: str, device: torch.device | None = None) -> Subject:
    """Return a model to evaluate: one of ours or a baseline, by name, folder or hub id.

    Args:
        device: device of the model and the metric networks; default: CPU.

    Raises:
        ValueError: an unknown model.
    """
    subject = _load(fetch_model(find_model(NAMED.get(name, name)), {}))
    subject.name = short_name(name)
    if device is not None:
        subject.to(device)
    return subject


def _load(folder: str) -> Subject:
    if is_ours(folder) or (kind := _kind(Path(folder))) not in BASELINES:
        return OwnModel(VersatileDiffusionPipeline.from_pretrained(folder))
    make, task = BASELINES[kind]
    with reading(folder, f"a {kind}"):
        return make(folder, TASKS[task])


def _kind(folder: Path) -> str:
    """Return the class or type in a folder's index; empty if there is none."""
    for file, key in ((INDEX, "_class_name"), ("config.json", "model_type")):
        if (folder / file).is_file():
            return str(read_json(folder / file).get(key, ""))
    return ""
