"""The sampling loop as a generator; progress bars, previews, streaming and cancelling consume it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from versatile_diffusion.numeric import as_tensor, check_finite
from versatile_diffusion.printable import shown
from versatile_diffusion.sampling.schedulers import clean_and_noise, takes_eta

Predict = Callable[[Tensor, Tensor], Tensor]
"""`(latent (B, ...), timestep (B,)) ->` the network's guided output (B, ...)."""


@dataclass(frozen=True)
class StepState:
    """State after a step.

    Args:
        index: index of the step, from 0.
        total: number of steps of the run.
        timestep: timestep of the network call, 0 (clean) to 999 (noise).
        latent: (B, ...) latent after the step.
        pred_x0: (B, ...) current estimate of the clean latent.
    """

    index: int
    total: int
    timestep: int
    latent: Tensor
    pred_x0: Tensor


class Trajectory:
    """A latent on its way through the scheduler's timesteps, one step at a time.

    It asks (`question`) and is answered (`advance`), so that whoever runs several of them can answer them together.

    Args:
        scheduler: with `set_timesteps` done; it belongs to this trajectory alone.
        latent: (B, ...), noise; or a noised clean latent (`noisy_start`) if `start` is above 0.
        start: number of steps skipped at the noisy end.
        eta: 0 is deterministic, 1 as noisy as DDPM.
        step_noise: draws the noise (B, ...) of one step, needed when `eta` is above 0.
        hold: `(latent, step) -> latent` resets the kept part of the latent before a step (counted including skipped
            ones).

    Attributes:
        latent: (B, ...), the present state; another one may be put in its place.
        index: of the next step, from 0.
    """

    def __init__(
        self,
        scheduler: Any,
        latent: Tensor,
        *,
        start: int = 0,
        eta: float = 0.0,
        step_noise: Callable[[], Tensor] | None = None,
        hold: Callable[[Tensor, int], Tensor] | None = None,
    ):
        self.scheduler, self.start, self.hold, self.index = scheduler, start, hold, 0
        self.timesteps = scheduler.timesteps[start:]
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(start)
        self.latent = latent if hold is None else hold(latent, start)
        noisy = eta > 0 and step_noise is not None and takes_eta(scheduler)
        self._noise = (lambda: {"eta": eta, "variance_noise": step_noise()}) if noisy else dict  # type: ignore[misc]

    @property
    def over(self) -> bool:
        """Whether there is no step left."""
        return self.index >= len(self.timesteps)

    @property
    def question(self) -> tuple[Tensor, Tensor]:
        """What the network is asked next: latent (B, ...) and timestep (B,)."""
        timestep = self.timesteps[self.index]
        return self.scheduler.scale_model_input(self.latent, timestep), timestep.expand(len(self.latent))

    def advance(self, output: Tensor) -> StepState:
        """Takes a step. Args: output: (B, ...), the network's guided answer to the question."""
        timestep, latent = self.timesteps[self.index], self.latent
        noise = self._noise()
        clean, _ = clean_and_noise(self.scheduler, output, int(timestep), latent)
        latent = self.scheduler.step(output, timestep, latent, return_dict=False, **noise)[0]
        self.index += 1
        self.latent = latent if self.hold is None else self.hold(latent, self.start + self.index)
        return StepState(self.index - 1, len(self.timesteps), int(timestep), self.latent, clean)


def denoise(
    predict: Predict, scheduler: Any, latent: Tensor, **options: Any
) -> Generator[StepState, Tensor | None, None]:
    """Runs the scheduler's timesteps, yielding after each; a latent sent back in replaces the current one.

    Args:
        predict: see `Predict`; guidance is in it.
        scheduler, latent, options: of the `Trajectory`.
    """
    yield from walk(predict, Trajectory(scheduler, latent, **options))


def walk(predict: Predict, path: Trajectory) -> Generator[StepState, Tensor | None, None]:
    """The steps of a trajectory, as `denoise` yields them."""
    while not path.over:
        sent = yield path.advance(predict(*path.question))
        if sent is not None:
            path.latent = replacement(path.latent, sent)


def replacement(latent: Tensor, sent: Any) -> Tensor:
    """Return latents that replace the current ones.

    Raises:
        ValueError: another shape, or not finite.
    """
    new = as_tensor(sent, "latents").to(latent)
    if new.shape != latent.shape:
        raise ValueError(f"replacement latents are {tuple(new.shape)}; they must be {tuple(latent.shape)}")
    return check_finite(new, "the replacement latents")


def latents_from_callback(answer: Any) -> Any:
    """Return the latents in a callback's return value, or None; ValueError for other return values."""
    if answer is not None and not isinstance(answer, Mapping):
        raise ValueError(f"callback_on_step_end returned {shown(answer)}; it must be a dict with latents, or None")
    return None if answer is None else answer.get("latents")


def start_step(num_inference_steps: int, fidelity: float) -> int:
    """Return the number of steps to skip at the noisy end to keep `fidelity` (0..1) of an init latent.

    The original truncates 50 (1 - fidelity), one step short for some values; this rounds. Between 0 and 1 at least one
    step is skipped and at least one is run (see `steps_with`).
    """
    if fidelity in (0, 1):
        return num_inference_steps * int(fidelity)
    return min(max(round(num_inference_steps * fidelity), 1), num_inference_steps - 1)


def steps_with(num_inference_steps: int, fidelity: float) -> int:
    """Return the minimum number of steps for an init latent that is kept in part: one skipped and one run."""
    return max(num_inference_steps, 2) if 0 < fidelity < 1 else num_inference_steps


def noisy_start(scheduler: Any, clean: Tensor, noise: Tensor, start: int) -> Tensor:
    """Return the initial latent (B, ...) for `denoise(..., start=start)` from a clean latent and noise.

    With `start` 0 it is pure noise; with all steps skipped it is the clean latent. The original DDIM adds the noise of
    the step before the first one it runs; the scheduler's `start_lead` sets this.
    """
    if start == 0:
        return noise
    lead = getattr(scheduler, "start_lead", 0) if start < len(scheduler.timesteps) else 0
    return at_level(scheduler, clean, noise, start - lead)


def at_level(scheduler: Any, clean: Tensor, noise: Tensor, step: int) -> Tensor:
    """Return the latent (B, ...) that a step expects, from a clean latent and noise; clean after the last step."""
    if step >= len(scheduler.timesteps):
        return clean
    alpha = scheduler.alphas_cumprod[int(scheduler.timesteps[step])]
    noisy: Tensor = alpha**0.5 * clean + (1 - alpha) ** 0.5 * noise
    return noisy
