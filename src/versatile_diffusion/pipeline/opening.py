"""What a run begins with, for all of its items or some of them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from versatile_diffusion.diffuser.context import Context
from versatile_diffusion.diffuser.unet import MultiFlowUNet
from versatile_diffusion.sampling import seeds
from versatile_diffusion.sampling.denoise import Trajectory, noisy_start
from versatile_diffusion.sampling.guidance import Guidance, guided
from versatile_diffusion.sampling.rules import Guide

if TYPE_CHECKING:
    from versatile_diffusion.pipeline.run import Run


@dataclass(frozen=True)
class Opening:
    """The start of a run.

    Args:
        run: what was settled for it.
        noise: (B, ...).
        guides: the conditions, with tokens (B, L, D).
        clean: (B, ...), the latents of its start; None without one.
    """

    run: Run
    noise: Tensor
    guides: Sequence[Guide]
    clean: Tensor | None = None

    def items(self, chosen: slice) -> Opening:
        """The same for some of the items."""
        clean = None if self.clean is None else self.clean[chosen]
        return replace(self, noise=self.noise[chosen], guides=[_part(g, chosen) for g in self.guides], clean=clean)

    @property
    def latent(self) -> Tensor:
        """The first latent (B, ...)."""
        return (
            self.noise
            if self.clean is None
            else noisy_start(self.run.scheduler, self.clean, self.noise, self.run.first)
        )

    def trajectory(self, sources: Sequence[torch.Generator]) -> Trajectory:
        """From the first latent on. Args: sources: draw the noise of each item's steps."""
        run, hold = self.run, None
        if run.start is not None and self.clean is not None:
            hold = run.start.hold(run.scheduler, self.clean, self.noise)

        def step_noise() -> Tensor:
            return seeds.normal(run.shape, sources).to(self.noise)

        scheduler = copy.deepcopy(run.scheduler)  # some of them remember earlier steps
        return Trajectory(
            scheduler, self.latent, start=run.first, eta=run.request.eta, step_noise=step_noise, hold=hold
        )

    def guidance(self, unet: MultiFlowUNet) -> Guidance:
        """Return the guidance of these items."""
        request = self.run.request
        return guided(
            unet,
            self.guides,
            data=request.data,
            scale=request.guidance_scale,
            mixing=request.mixing,
            layer_seed=request.layer_seed,
            layer_bits=request.layer_bits,
            layer_plan=request.layer_plan,
            interval=request.guidance_interval,
            rescale=request.guidance_rescale,
            fast=request.fast,
            timesteps=self.run.scheduler.timesteps.tolist(),
        )


def _part(guide: Guide, chosen: slice) -> Guide:
    context: Context = replace(guide.context, tokens=guide.context.tokens[chosen])
    blank = None if guide.blank is None else guide.blank[chosen]
    return replace(guide, context=context, null=guide.null[chosen], blank=blank)
