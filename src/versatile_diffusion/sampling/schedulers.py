"""Noise schedules and samplers: DDIM as in the original, and two faster presets from diffusers."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler
from diffusers.schedulers.scheduling_ddim import DDIMSchedulerOutput
from torch import Tensor

from versatile_diffusion.choices import chosen

SCHEDULE = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
"""betas = linspace(sqrt(0.00085), sqrt(0.012), 1000)^2, as in the released code (the paper prints 8.5e-5)."""

SHARED = (*SCHEDULE, "trained_betas", "prediction_type")
"""Config that belongs to the trained model and is kept when the sampler changes."""

ENDS_IN_NOISE = {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
"""Config of a zero terminal SNR schedule; sampling must then start at the last timestep."""


def clean_and_noise(scheduler: Any, output: Tensor, timestep: int | Tensor, sample: Tensor) -> tuple[Tensor, Tensor]:
    """Return estimates of the clean latent and the noise from a network output (of the scheduler's
    `prediction_type`)."""
    signal = scheduler.alphas_cumprod[timestep] ** 0.5
    sigma = (1 - scheduler.alphas_cumprod[timestep]) ** 0.5
    return PREDICTIONS[scheduler.config.prediction_type](output, sample, signal, sigma)


PREDICTIONS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]] = {
    "epsilon": lambda output, x, signal, sigma: ((x - sigma * output) / signal, output),
    "v_prediction": lambda output, x, signal, sigma: (signal * x - sigma * output, signal * output + sigma * x),
    "sample": lambda output, x, signal, sigma: (output, (x - signal * output) / sigma),
}


class OfficialDDIMScheduler(DDIMScheduler):
    """DDIM as in the original sampler, in exactly n steps.

    Timesteps are floor(i T / n) + 1, the original's if n divides T; otherwise the original takes more than n steps, and
    diffusers' "leading" spacing ends before the noisiest ones. Only "trailing" spacing starts at the last timestep. The
    final step ends at the first `alphas_cumprod`, not at 1 (`set_alpha_to_one=False`).
    """

    start_lead = 1  # an init latent is noised by one step more than the first step expects, as in the original

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Set the timesteps in running order, noisiest first.

        Raises:
            ValueError: a number of steps below 1 or above the number of trained timesteps.
        """
        trained = self.config.num_train_timesteps
        if not 1 <= num_inference_steps <= trained:
            raise ValueError(f"num_inference_steps is {num_inference_steps}; it must be from 1 to {trained}")
        self.num_inference_steps = num_inference_steps
        if self.config.timestep_spacing == "trailing":
            ascending = torch.arange(1, num_inference_steps + 1) * trained // num_inference_steps - 1
        else:
            offset = 1 if num_inference_steps < trained else 0  # no offset if every timestep is used
            ascending = torch.arange(num_inference_steps) * trained // num_inference_steps + offset
        self.timesteps = ascending.flip(0).to(device)

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        eta: float = 0.0,
        variance_noise: Tensor | None = None,
        return_dict: bool = True,
    ) -> DDIMSchedulerOutput | tuple[Tensor, Tensor]:
        """Run one DDIM step (equation 12). `variance_noise` is required if `eta` is above 0."""
        now = int(timestep)
        later = self.timesteps[self.timesteps < now]
        previous = int(later[0]) if len(later) else -1
        alpha = self.alphas_cumprod[previous] if len(later) else self.final_alpha_cumprod
        clean, noise = clean_and_noise(self, model_output, now, sample)
        sigma = eta * self._get_variance(now, previous) ** 0.5
        latent = alpha**0.5 * clean + (1 - alpha - sigma**2) ** 0.5 * noise
        if eta > 0:
            if variance_noise is None:
                raise ValueError(f"eta is {eta}, so variance_noise is needed")
            latent = latent + sigma * variance_noise
        return DDIMSchedulerOutput(latent, clean) if return_dict else (latent, clean)


SCHEDULERS: dict[str, Callable[..., Any]] = {
    "ddim": partial(OfficialDDIMScheduler, **SCHEDULE, clip_sample=False, set_alpha_to_one=False, steps_offset=1),
    "dpm++": partial(DPMSolverMultistepScheduler, **SCHEDULE, algorithm_type="dpmsolver++"),
    "unipc": partial(UniPCMultistepScheduler, **SCHEDULE),
}
"""Samplers by name; each takes config overrides (e.g. `prediction_type`) as keywords."""


def named_scheduler(name: str, trained: Mapping[str, Any] | None = None) -> Any:
    """Return a fresh sampler.

    Args:
        name: a key of `SCHEDULERS`.
        trained: config of the model's training scheduler; betas, prediction type and trailing timesteps are kept.

    Raises:
        ValueError: an unknown name.
    """
    chosen("scheduler", name, SCHEDULERS)
    shared = {key: trained[key] for key in SHARED if trained and key in trained}
    if trained and trained.get("rescale_betas_zero_snr"):
        shared |= ENDS_IN_NOISE
    if trained and trained.get("timestep_spacing") == "trailing":  # as of distilled models
        shared["timestep_spacing"] = "trailing"
    return SCHEDULERS[name](**shared)


def scheduler_name(scheduler: Any) -> str | None:
    """Return the key in `SCHEDULERS` of a scheduler's class; None if there is none."""
    return next((name for name, make in SCHEDULERS.items() if type(scheduler) is getattr(make, "func", make)), None)


def takes_eta(scheduler: Any) -> bool:
    """Return whether the sampler supports `eta` above 0."""
    return "eta" in inspect.signature(scheduler.step).parameters
