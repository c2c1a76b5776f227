"""The sampling loop as a generator: progress bars, previews, streaming and cancelling are its consumers."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from versatile_diffusion.sampling.schedulers import clean_and_noise, takes_eta

Predict = Callable[[Tensor, Tensor], Tensor]
"""(latent (B, ...), timestep (B,)) to the network's guided output (B, ...)."""


@dataclass(frozen=True)
class StepState:
    """What is known after one step.

    Args:
        index: of the step, from 0.
        total: number of steps of the run.
        timestep: at which the network was asked, 0 (clean) to 999 (noise).
        latent: (B, ...), the state after the step.
        pred_x0: (B, ...), the network's present estimate of the clean latent.
    """

    index: int
    total: int
    timestep: int
    latent: Tensor
    pred_x0: Tensor


def denoise(
    predict: Predict,
    scheduler: Any,
    latent: Tensor,
    *,
    start: int = 0,
    eta: float = 0.0,
    step_noise: Callable[[], Tensor] | None = None,
    hold: Callable[[Tensor, int], Tensor] | None = None,
) -> Generator[StepState, Tensor | None, None]:
    """Runs the scheduler's timesteps, yielding after each; a latent sent back in replaces the current one.

    Args:
        predict: see `Predict`; guidance is in it.
        scheduler: with `set_timesteps` done.
        latent: (B, ...), noise; or a noised clean latent (`noised`) when `start` is above 0.
        start: number of steps left out at the noisy end.
        eta: 0 is deterministic, 1 as noisy as DDPM.
        step_noise: draws the noise (B, ...) of one step, needed when `eta` is above 0.
        hold: `(latent, step) -> latent` keeps a part of the latent as it has to be before a step (counted with those
            left out).
    """
    timesteps = scheduler.timesteps[start:]
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(start)
    latent = latent if hold is None else hold(latent, start)
    for index, timestep in enumerate(timesteps):
        output = predict(scheduler.scale_model_input(latent, timestep), timestep.expand(len(latent)))
        noise = {"eta": eta, "variance_noise": step_noise()} if eta > 0 and step_noise and takes_eta(scheduler) else {}
        clean, _ = clean_and_noise(scheduler, output, int(timestep), latent)
        latent = scheduler.step(output, timestep, latent, return_dict=False, **noise)[0]
        latent = latent if hold is None else hold(latent, start + index + 1)
        sent = yield StepState(index, len(timesteps), int(timestep), latent, clean)
        latent = latent if sent is None else sent


def start_step(num_inference_steps: int, fidelity: float) -> int:
    """How many steps at the noisy end to leave out for a result that keeps `fidelity` (0..1) of a start latent.

    The original truncates 50 (1 - fidelity), so it is one step short for some values; this rounds.
    """
    return round(num_inference_steps * fidelity)


def noised(scheduler: Any, clean: Tensor, noise: Tensor, start: int) -> Tensor:
    """The latent (B, ...) from which `denoise(..., start=start)` begins, made of a clean latent and noise.

    With `start` 0 it is the noise alone; with every step left out it is the clean latent. The original's DDIM adds the
    noise of the step before the first that it runs; `start_lead` of the scheduler says so.
    """
    if start == 0:
        return noise
    lead = getattr(scheduler, "start_lead", 0) if start < len(scheduler.timesteps) else 0
    return at_level(scheduler, clean, noise, start - lead)


def at_level(scheduler: Any, clean: Tensor, noise: Tensor, step: int) -> Tensor:
    """The latent (B, ...) that a step expects, made of a clean latent and noise; clean after the last step."""
    if step >= len(scheduler.timesteps):
        return clean
    alpha = scheduler.alphas_cumprod[int(scheduler.timesteps[step])]
    return alpha**0.5 * clean + (1 - alpha) ** 0.5 * noise
