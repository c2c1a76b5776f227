"""Models of others, measured as ours are: Stable Diffusion, its image variations, BLIP, from folders or the hub."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, DiffusionPipeline, DPMSolverMultistepScheduler, UniPCMultistepScheduler
from transformers import AutoTokenizer, BlipForConditionalGeneration, BlipImageProcessorPil

from versatile_diffusion.evaluation.networks import called
from versatile_diffusion.evaluation.protocol import Protocol
from versatile_diffusion.evaluation.subjects import OwnModel, Subject
from versatile_diffusion.sampling.models import INDEX, fetched, find_model, is_ours
from versatile_diffusion.sampling.output import fingerprint
from versatile_diffusion.sampling.pipeline import VersatileDiffusionPipeline
from versatile_diffusion.tasks import TASKS, Task

NAMED = {
    "stable-diffusion-v1-4": "CompVis/stable-diffusion-v1-4",
    "sd-image-variations": "lambdalabs/sd-image-variations-diffusers",
    "blip": "Salesforce/blip-image-captioning-base",
}
"""Names to ids on the hub."""
SAMPLERS = {"ddim": DDIMScheduler, "dpm++": DPMSolverMultistepScheduler, "unipc": UniPCMultistepScheduler}
GIVEN = {"text": "prompt", "image": "image"}
"""What pipelines of diffusers call what guides."""
LONGEST = 24  # tokens of a caption


class DiffusersBaseline(Subject):
    """A pipeline of diffusers that makes pictures from texts or from pictures."""

    def __init__(self, folder: str, task: Task):
        self.pipe = DiffusionPipeline.from_pretrained(folder, safety_checker=None, requires_safety_checker=False)
        self.pipe.set_progress_bar_config(disable=True)
        self.name, self.tasks = Path(folder).name, (task,)
        self.network, self.hash = self.pipe, fingerprint(self.pipe.unet, self.pipe.vae)
        self.trained_with = self.pipe.scheduler.config

    def make(self, task: Task, given: Sequence[Any], seeds: Sequence[int], protocol: Protocol) -> list[Any]:
        self.pipe.scheduler = SAMPLERS[protocol.scheduler].from_config(self.trained_with)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        guide = {GIVEN[task.flow.contexts[0]]: list(given)}
        guidance = self.guidance(task, protocol)
        return self.pipe(
            **guide, num_inference_steps=protocol.steps, guidance_scale=guidance, generator=generators
        ).images

    def guidance(self, task: Task, protocol: Protocol) -> float:
        return task.guidance_scale if protocol.guidance_scale is None else protocol.guidance_scale


class BlipBaseline(Subject):
    """BLIP's captions of pictures, the likeliest token at each place."""

    def __init__(self, folder: str, task: Task):
        self.network = BlipForConditionalGeneration.from_pretrained(folder).eval()
        self.read, self.words = BlipImageProcessorPil.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
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
"""By the class that `model_index.json` names, or the kind that `config.json` does: how it is loaded, and its task."""


def find_subject(name: str, device: torch.device | None = None) -> Subject:
    """A model to measure: one of ours, or a baseline, by name, folder or hub id.

    Args:
        device: where it computes, and what measures it does; the CPU if left out.

    Raises:
        ValueError: there is no such model.
    """
    subject = _loaded(fetched(find_model(NAMED.get(name, name)), {}))
    subject.name = called(name)
    if device is not None:
        subject.to(device)
    return subject


def _loaded(folder: str) -> Subject:
    if is_ours(folder) or (kind := _kind(Path(folder))) not in BASELINES:
        return OwnModel(VersatileDiffusionPipeline.from_pretrained(folder))
    make, task = BASELINES[kind]
    return make(folder, TASKS[task])


def _kind(folder: Path) -> str:
    """What a folder's index says that it holds; empty where it says nothing."""
    for file, key in ((INDEX, "_class_name"), ("config.json", "model_type")):
        if (folder / file).is_file():
            return json.loads((folder / file).read_text(encoding="utf-8")).get(key, "")
    return ""
