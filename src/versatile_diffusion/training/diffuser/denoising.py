"""What the diffuser is asked to predict, and how much each item counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from einops import reduce
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from versatile_diffusion.printable import shown
from versatile_diffusion.sampling.schedulers import ENDS_IN_NOISE, SCHEDULERS

TARGETS: dict[str, Callable[[Any, Tensor, Tensor, Tensor], Tensor]] = {
    "epsilon": lambda scheduler, latent, noise, timestep: noise,
    "v_prediction": lambda scheduler, latent, noise, timestep: scheduler.get_velocity(latent, noise, timestep),
    "sample": lambda scheduler, latent, noise, timestep: latent,
}
MIN_SNR: dict[str, Callable[[Tensor, float], Tensor]] = {
    "epsilon": lambda snr, most: snr.clamp(max=most) / snr,
    "v_prediction": lambda snr, most: snr.clamp(max=most) / (snr + 1),
    "sample": lambda snr, most: snr.clamp(max=most),
}
BANDS = 4


@dataclass(frozen=True)
class Denoising:
    """The loss of one flow; by default the paper's: mean squared error to the noise (section 3.1).

    Args:
        prediction: what the network predicts: `epsilon` (the noise), `v_prediction` or `sample` (the clean latent).
        min_snr: largest weight of a noise level in terms of the clean latent, such as 5 (Hang et al. 2023); None
            weighs no level.
        zero_terminal_snr: rescale the schedule so that nothing is left of the latent at its end (Lin et al. 2023).
        noise_offset: standard deviation of noise that is added to a grid's channels as a whole.

    Raises:
        ValueError: an unknown prediction, numbers out of range, or the noise to be predicted where there is nothing
            else.
    """

    prediction: str = "epsilon"
    min_snr: float | None = None
    zero_terminal_snr: bool = False
    noise_offset: float = 0.0

    def __post_init__(self) -> None:
        if self.prediction not in TARGETS:
            raise ValueError(f"prediction is {shown(self.prediction)}; allowed: {', '.join(TARGETS)}")
        if self.min_snr is not None and not self.min_snr > 0:
            raise ValueError(f"min_snr is {self.min_snr}; it must be above 0, or None")
        if self.noise_offset < 0:
            raise ValueError(f"noise_offset is {self.noise_offset}; it must be 0 or more")
        if self.zero_terminal_snr and self.prediction == "epsilon":
            raise ValueError("zero_terminal_snr leaves only noise at its end: predict v_prediction or sample")

    @cached_property
    def scheduler(self) -> Any:
        """Of the noise schedule that is trained."""
        return SCHEDULERS["ddim"](prediction_type=self.prediction, **(ENDS_IN_NOISE if self.zero_terminal_snr else {}))

    @property
    def levels(self) -> int:
        """How many timesteps there are."""
        return len(self.scheduler.betas)

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Noise for latents (B, ...)."""
        device = generator.device
        noise = torch.randn(shape, generator=generator, device=device)
        if self.noise_offset and len(shape) > 2:
            whole = (*shape[:2], *[1] * (len(shape) - 2))
            noise = noise + self.noise_offset * torch.randn(whole, generator=generator, device=device)
        return noise

    def timesteps(
        self, items: int, generator: torch.Generator, each: int = 1, lowest: int = 0, high: float = 0.0
    ) -> Int[Tensor, " {items}*{each}"]:
        """Timesteps from `lowest` up, `each` for every item: the first at random, the others evenly apart from it; of
        a share of `high` of the items all in the upper half."""
        device = generator.device
        if high:
            upper = torch.rand(items, 1, generator=generator, device=device) < high
            span = torch.where(upper, self.levels // 2, self.levels - lowest)
            first = (torch.rand(items, 1, generator=generator, device=device) * span).long()
        else:
            span = torch.full((items, 1), self.levels - lowest, device=device)
            first = torch.randint(self.levels - lowest, (items, 1), generator=generator, device=device)
        apart = torch.arange(each, device=device) * span // each
        return (self.levels - span + (first + apart) % span).flatten()

    def loss(
        self,
        predict: Callable[[Tensor], Tensor],
        latent: Float[Tensor, "b ..."],
        noise: Float[Tensor, "b ..."],
        timestep: Int[Tensor, " b"],
    ) -> tuple[Tensor, Float[Tensor, " b"]]:
        """The loss to minimise, and each item's squared error without any weight.

        Args:
            predict: the network, from noisy latents to what it predicts.
            latent: clean.
            noise: to add to it.
            timestep: how much of it.
        """
        predicted = predict(self.scheduler.add_noise(latent, noise, timestep)).float()
        target = TARGETS[self.prediction](self.scheduler, latent, noise, timestep)
        if self.min_snr is None:
            errors = reduce((predicted.detach() - target) ** 2, "b ... -> b", "mean")
            return F.mse_loss(predicted, target), errors
        errors = reduce((predicted - target) ** 2, "b ... -> b", "mean")
        signal = self.scheduler.alphas_cumprod.to(timestep.device)[timestep]
        weights = MIN_SNR[self.prediction](signal / (1 - signal), self.min_snr)
        return (weights * errors).mean(), errors.detach()

    def by_level(
        self, errors: Float[Tensor, " b"], timestep: Int[Tensor, " b"], lowest: int = 0, high: float = 0.0
    ) -> dict[str, Tensor]:
        """The errors in each of `BANDS` equal bands of timesteps that has some from `lowest` up, as shares: over many
        batches they average to the mean of the band. (So no batch needs items in every band.)"""
        shares = {}
        for name, inside, start, end in self._bands(timestep):
            expected = (1 - high) * max(0, end - max(start, lowest)) / (self.levels - lowest)
            expected += high * max(0, end - max(start, self.levels // 2)) / (self.levels - self.levels // 2)
            if expected:
                shares[name] = torch.where(inside, errors, 0.0).mean() / expected
        return shares

    def means_by_level(self, errors: Float[Tensor, " b"], timestep: Int[Tensor, " b"]) -> dict[str, float]:
        """The mean error in each band that has items."""
        return {name: float(errors[inside].mean()) for name, inside, *_ in self._bands(timestep) if inside.any()}

    def _bands(self, timestep: Tensor) -> list[tuple[str, Tensor, int, int]]:
        """Name, which timesteps are inside, and from where to where each band goes."""
        edges = [band * self.levels // BANDS for band in range(BANDS + 1)]
        bands = pairwise(edges)
        return [(f"t{low}-{high - 1}", (low <= timestep) & (timestep < high), low, high) for low, high in bands]
