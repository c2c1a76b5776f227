"""How a model is distilled, and the arithmetic of deterministic steps between noise levels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from versatile_diffusion.choices import unknown
from versatile_diffusion.printable import shown
from versatile_diffusion.sampling.schedulers import clean_and_noise

STEPS = (0, 1, 2, 4, 8)
"""Sampling steps of a distilled model; 0 leaves their number as it is and distils guidance alone."""


@dataclass(frozen=True)
class Method:
    """A way to distil many steps into few.

    Args:
        own_path: latents to learn from are those that the student itself comes to from noise, as in use; else they are
            noised data.
        bootstrap: the teacher takes one step, and what the student makes of it is the target; else the teacher goes all
            the way to the target.
        whole: the target is always the end of the trajectory; else the student's next step.
        help: one line for people.
    """

    own_path: bool = False
    bootstrap: bool = False
    whole: bool = False
    help: str = ""


METHODS: Mapping[str, Method] = {
    "trajectory": Method(own_path=True, help="the teacher's steps from where the student's own steps lead"),
    "progressive": Method(help="the teacher's steps, from noised data (Salimans and Ho 2022, in one stage)"),
    "multistep": Method(bootstrap=True, help="multistep consistency models (Heek et al. 2024)"),
    "consistency": Method(bootstrap=True, whole=True, help="latent consistency models (Luo et al. 2023)"),
}


@dataclass(frozen=True)
class DistillSettings:
    """What a model is distilled to.

    Args:
        steps: sampling steps of the result, of `STEPS`.
        method: a key of `METHODS`; without a meaning where only guidance is distilled.
        teacher_steps: steps of the teacher over the whole trajectory.
        guidance: guidance scale of the teacher, by task or by the modality that is generated; the model's own by
            default. It is fixed in the result, which is then used with scale 1.

    Raises:
        ValueError: a number or a name that is not allowed.
    """

    steps: int = 4
    method: str = "trajectory"
    teacher_steps: int = 16
    guidance: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.steps not in STEPS:
            raise ValueError(f"steps is {shown(self.steps)}; a distilled model has {', '.join(map(str, STEPS))}")
        if self.method not in METHODS:
            raise ValueError(unknown("method of distillation", self.method, METHODS))
        if not max(self.steps, 1) <= self.teacher_steps <= 1000:
            raise ValueError(
                f"teacher_steps is {self.teacher_steps}; it must be at least the {self.steps} steps of the result, and "
                "at most 1000"
            )
        if bad := {name: scale for name, scale in self.guidance.items() if not 0 <= scale < float("inf")}:
            raise ValueError(f"guidance has {bad}; scales must be 0 or more")

    @property
    def way(self) -> Method:
        return METHODS[self.method]

    @property
    def name(self) -> str:
        """Of the form that it makes of a model, see `sampling.fast.FAST`."""
        return str(self.steps) if self.steps else "one-pass"


class Levels:
    """Noise levels of a schedule, and deterministic (DDIM) steps between them; level 0 is the end of sampling.

    Args:
        scheduler: has the schedule, and what the network predicts.
    """

    def __init__(self, scheduler: Any):
        self.scheduler = scheduler
        self.count = len(scheduler.alphas_cumprod)

    def parts(self, output: Tensor, timestep: Int[Tensor, " b"], latent: Tensor) -> tuple[Tensor, Tensor]:
        """The clean latent and the noise that an output of the network stands for."""
        return clean_and_noise(_Spread(self.scheduler, latent), output, timestep, latent)

    def step(self, latent: Tensor, output: Tensor, now: Tensor, then: Tensor) -> Tensor:
        """The latent at level `then` (B,) from that at `now` and the network's output there."""
        clean, noise = self.parts(output, now, latent)
        signal, sigma = self._scales(then, latent)
        return signal * clean + sigma * noise

    def velocity(self, latent: Tensor, output: Tensor, now: Tensor) -> Tensor:
        """An output as a velocity, whatever the network predicts: the errors of all noise levels are alike in it."""
        clean, noise = self.parts(output, now, latent)
        signal, sigma = self._scales(now, latent)
        return signal * noise - sigma * clean

    def velocity_to(self, latent: Tensor, now: Tensor, other: Tensor, then: Tensor) -> Float[Tensor, "b ..."]:
        """The velocity at `now` that leads in one step to `other`, a latent at level `then`."""
        signal, sigma = self._scales(now, latent)
        signal_then, sigma_then = self._scales(then, latent)
        apart = sigma * signal_then - sigma_then * signal
        clean = (sigma * other - sigma_then * latent) / apart
        noise = (signal_then * latent - signal * other) / apart
        return signal * noise - sigma * clean

    def stops(self, steps: int) -> Int[Tensor, " steps"]:
        """The timesteps of sampling in this number of steps, noisiest first (`timestep_spacing="trailing"`)."""
        return (torch.arange(1, steps + 1) * self.count // steps - 1).flip(0)

    def below(self, timestep: Int[Tensor, " b"], steps: int) -> Int[Tensor, " b"]:
        """The next stop of `steps` below each timestep: where a step from there ends."""
        stops = self.stops(steps).flip(0).to(timestep)
        place = torch.searchsorted(stops, timestep) - 1
        return torch.where(place < 0, 0, stops[place.clamp(min=0)])

    def _scales(self, timestep: Tensor, latent: Tensor) -> tuple[Tensor, Tensor]:
        alpha = _Spread(self.scheduler, latent).alphas_cumprod[timestep]
        return alpha**0.5, (1 - alpha) ** 0.5


class _Spread:
    """A scheduler whose levels have the shape of latents, for timesteps that differ within a batch."""

    def __init__(self, scheduler: Any, latent: Tensor):
        alphas = scheduler.alphas_cumprod.to(latent.device)
        self.config, self.alphas_cumprod = scheduler.config, alphas.view(-1, *[1] * (latent.ndim - 1))
