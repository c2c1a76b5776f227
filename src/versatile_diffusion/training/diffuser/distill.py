"""Distillation of a diffuser: guidance in one pass in place of two, and sampling in few steps in place of many.

The student begins as the teacher. It learns to lead, by one prediction without guidance, where the teacher gets by
guided ones: at the same noise level (guidance alone), or at the student's next step (see `distillation.METHODS`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from einops import rearrange, reduce
from torch import Tensor

from versatile_diffusion.diffuser.unet import MultiFlowUNet
from versatile_diffusion.pipeline.distilled import DistilledForm
from versatile_diffusion.pipeline.pipeline import VersatileDiffusionPipeline
from versatile_diffusion.tasks import Task
from versatile_diffusion.training.diffuser.batch import Batch
from versatile_diffusion.training.diffuser.distillation import DistillSettings, Levels
from versatile_diffusion.training.diffuser.lora import save_lora
from versatile_diffusion.training.diffuser.mixture import by_flow
from versatile_diffusion.training.diffuser.objective import DiffuserObjective

Predict = Callable[[Tensor, Tensor], Tensor]
"""`(latents (B, ...), timesteps (B,)) ->` outputs of a network."""


@dataclass
class DistillObjective(DiffuserObjective):
    """Mean squared difference of the student's velocity from the one that leads where the teacher gets.

    `start` is the teacher, and what the student begins as; `options.distill` says the rest.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.start is None or self.options.distill is None:
            raise ValueError("distillation needs a model to distil, and what it is distilled to")
        self.distill: DistillSettings = self.options.distill
        self.teacher = self.start.to(self.device).eval().requires_grad_(False)
        self.levels = Levels(self.scheduler)
        own = self.model.get("defaults", {})
        self.scales = {
            task.name: by_flow(
                self.distill.guidance, task, own.get(task.name, {}).get("guidance_scale", task.guidance_scale)
            )
            for task in self.options.tasks
        }

    @property
    def _on_own_path(self) -> bool:
        return bool(self.distill.steps) and self.distill.way.own_path

    def _levels(self, task: Task, measured: bool) -> tuple[int, Callable[[int, torch.Generator], Tensor]]:
        steps = self.distill.steps
        if not steps or self.distill.way.bootstrap:
            each, draw = super()._levels(task, measured)
            return each, lambda items, generator: draw(items, generator).clamp(min=1)
        stops = self.levels.stops(steps)
        if self._on_own_path:  # all steps of an item's trajectory
            return steps, lambda items, generator: stops.repeat(items).to(generator.device)
        each, _ = super()._levels(task, measured)

        def drawn(items: int, generator: torch.Generator) -> Tensor:
            picks = torch.randint(steps, (items * each,), generator=generator, device=generator.device)
            return stops.to(generator.device)[picks]

        return each, drawn

    def _by_level(self, batch: Batch, errors: Tensor) -> dict[str, Tensor]:
        if not self.distill.steps or self.distill.way.bootstrap:
            return super()._by_level(batch, errors)
        here = [(int(stop), batch.timestep == stop) for stop in self.levels.stops(self.distill.steps)]
        return {f"t{stop}": torch.where(inside, errors, 0.0).mean() * len(here) for stop, inside in here}

    def _loss(self, module: MultiFlowUNet, batch: Batch, retain: bool = False) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            student: Predict = partial(_answer, module, batch)
            latent = self._own_path(student, batch) if self._on_own_path else self._noised(batch)
            wanted = self._wanted(student, self._guided(batch), latent, batch.timestep)
        latent.requires_grad_(self.options.freezes)  # see `DiffuserObjective._loss`
        output = module(latent, batch.timestep, batch.contexts, data=batch.task.flow.data).float()
        errors = (self.levels.velocity(latent, output, batch.timestep) - wanted) ** 2
        return errors.mean(), reduce(errors.detach(), "b ... -> b", "mean")

    def _noised(self, batch: Batch) -> Tensor:
        return self.scheduler.add_noise(batch.latent, batch.noise, batch.timestep)

    def _own_path(self, student: Predict, batch: Batch) -> Tensor:
        """The latents before each of the student's steps, from noise on; the steps of an item next to each other."""
        steps = self.distill.steps
        latent, *_ = rearrange(batch.noise, "(b n) ... -> n b ...", n=steps)
        path, times = [latent], rearrange(batch.timestep, "(b n) -> n b", n=steps)
        for now, then in pairwise(times):
            latent = self.levels.step(latent, student(latent, now), now, then)
            path.append(latent)
        return rearrange(path, "n b ... -> (b n) ...")

    def _guided(self, batch: Batch) -> Predict:
        """The teacher's guided predictions for the items of a batch."""
        data, scale, null = batch.task.flow.data, self.scales[batch.task.name], self.null[batch.task.name]
        contexts = list(batch.contexts)
        if scale != 1:
            contexts = [
                replace(c, tokens=torch.cat([null[c.stream].to(c.tokens).expand_as(c.tokens), c.tokens]))
                for c in contexts
            ]
        contexts = self.teacher.project(contexts)

        def predict(latent: Tensor, timestep: Tensor) -> Tensor:
            if scale == 1:
                return self.teacher(latent, timestep, contexts, data=data).float()
            both = torch.cat([latent] * 2), torch.cat([timestep] * 2)
            without, given = self.teacher(*both, contexts, data=data).float().chunk(2)
            return without + scale * (given - without)

        return predict

    def _wanted(self, student: Predict, teacher: Predict, latent: Tensor, now: Tensor) -> Tensor:
        """The velocity that the student is to have at latents of levels `now`."""
        levels, told = self.levels, self.distill
        if not told.steps:
            return levels.velocity(latent, teacher(latent, now), now)
        end = levels.below(now, 1 if told.way.whole else told.steps)
        if told.way.bootstrap:
            then = torch.maximum(now - levels.count // told.teacher_steps, end)
            near = levels.step(latent, teacher(latent, now), now, then)
            return levels.velocity_to(latent, now, levels.step(near, student(near, then), then, end), end)
        parts = max(1, round(told.teacher_steps / told.steps))
        at, place = latent, now
        for part in range(1, parts + 1):
            then = now + (end - now) * part // parts
            at, place = levels.step(at, teacher(at, place), place, then), then
        return levels.velocity_to(latent, now, at, end)

    @property
    def form(self) -> DistilledForm:
        """What the distilled model is used with."""
        steps = {"num_inference_steps": self.distill.steps} if self.distill.steps else {}
        tasks = [task.name for task in self.mixture.tasks]
        spacing = "trailing" if self.distill.steps else None
        return DistilledForm(self.distill.name, {name: {"guidance_scale": 1.0, **steps} for name in tasks}, spacing)

    def _sampling(self, task: Task) -> dict[str, Any]:
        return {"num_inference_steps": self.distill.steps or 20, "guidance_scale": 1.0}

    def pipeline(self, module: MultiFlowUNet) -> VersatileDiffusionPipeline:
        """`module` as a model by itself, which is used with what it was distilled to."""
        pipe, form = super().pipeline(module), self.form
        if form.timestep_spacing is not None:
            pipe.scheduler = form.spaced(pipe.scheduler)
        own: Mapping[str, Any] = pipe.config.defaults
        defaults = {name: {**own.get(name, {}), **form.defaults.get(name, {})} for name in {**own, **form.defaults}}
        pipe.register_to_config(defaults=defaults)
        return pipe

    def export(self, module: MultiFlowUNet, folder: Path) -> None:
        """The distilled model; with adapters the teacher, and the adapter as a form of it. Either runs with `fast`."""
        if self.options.lora is None:
            pipe = self.pipeline(module)
            pipe.add_form(self.form)
            return pipe.save_pretrained(folder)
        lora = self.options.lora
        with TemporaryDirectory() as place:
            file = save_lora(module, place, lora.name)
            pipe = super().pipeline(copy.deepcopy(self.teacher))
            pipe.add_form(replace(self.form, adapter=file, scale=(lora.alpha or lora.rank) / lora.rank))
            pipe.save_pretrained(folder)


def _answer(module: MultiFlowUNet, batch: Batch, latent: Tensor, timestep: Tensor) -> Tensor:
    """A network's output with a batch's contexts, without guidance."""
    return module(latent, timestep, batch.contexts, data=batch.task.flow.data).float()
