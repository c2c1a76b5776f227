"""Prediction target and loss weighting of the diffuser."""

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
        min_snr: gamma of min-SNR weighting, such as 5 (Hang et al. 2023); None: no weighting.
        zero_terminal_snr: rescale the schedule to zero terminal SNR (Lin et al. 2023).
        noise_offset: standard deviation of noise added to whole channels of a grid.

    Raises:
        ValueError: an unknown prediction, a number out of range, or `epsilon` with zero terminal SNR.
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
            raise ValueError("zero_terminal_snr needs prediction v_prediction or sample; the last step is pure noise")

    @cached_property
    def scheduler(self) -> Any:
        """Scheduler with the training noise schedule."""
        return SCHEDULERS["ddim"](prediction_type=self.prediction, **(ENDS_IN_NOISE if self.zero_terminal_snr else {}))

    @property
    def levels(self) -> int:
        """Number of timesteps."""
        return len(self.scheduler.betas)

    def noise(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Sample noise for latents (B, ...)."""
        device = generator.device
        noise = torch.randn(shape, generator=generator, device=device)
        if self.noise_offset and len(shape) > 2:
            whole = (*shape[:2], *[1] * (len(shape) - 2))
            noise = noise + self.noise_offset * torch.randn(whole, generator=generator, device=device)
        return noise

    def timesteps(
        self, items: int, generator: torch.Generator, each: int = 1, lowest: int = 0, high: float = 0.0
    ) -> Int[Tensor, " {items}*{each}"]:
        """Sample timesteps from `lowest` up, `each` per item: the first at random, the others evenly spaced from it. A
        share `high` of the items draws all of them from the upper half (from `lowest` up, too)."""
        device = generator.device
        if high:
            upper = torch.rand(items, 1, generator=generator, device=device) < high
            span = torch.where(upper, self.levels - max(self.levels // 2, lowest), self.levels - lowest)
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
        teacher: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, Float[Tensor, " b"]]:
        """The loss to minimise, and the unweighted squared error of each item.

        Args:
            predict: the network, from noisy latents to its prediction.
            latent: clean latents.
            noise: added to them.
            timestep: noise level of each item.
            teacher: its predictions from the same latents are the target, in place of the data's.
        """
        noisy = self.scheduler.add_noise(latent, noise, timestep)
        if teacher is None:
            target = TARGETS[self.prediction](self.scheduler, latent, noise, timestep)
        else:
            with torch.no_grad():
                target = teacher(noisy).float()
        predicted = predict(noisy).float()
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
        """Errors in each of `BANDS` equal bands of timesteps from `lowest` up, divided by the expected share of items
        in the band. Their average over many batches is the band's mean error, even if a batch has no items in it."""
        shares, upper = {}, max(self.levels // 2, lowest)
        for name, inside, start, end in self._bands(timestep):
            expected = (1 - high) * max(0, end - max(start, lowest)) / (self.levels - lowest)
            expected += high * max(0, end - max(start, upper)) / (self.levels - upper)
            if expected:
                shares[name] = torch.where(inside, errors, 0.0).mean() / expected
        return shares

    def means_by_level(self, errors: Float[Tensor, " b"], timestep: Int[Tensor, " b"]) -> dict[str, float]:
        """Mean error of each band that has items."""
        return {name: float(errors[inside].mean()) for name, inside, *_ in self._bands(timestep) if inside.any()}

    def _bands(self, timestep: Tensor) -> list[tuple[str, Tensor, int, int]]:
        """Name, membership mask, start and end of each band."""
        edges = [band * self.levels // BANDS for band in range(BANDS + 1)]
        bands = pairwise(edges)
        return [(f"t{low}-{high - 1}", (low <= timestep) & (timestep < high), low, high) for low, high in bands]
