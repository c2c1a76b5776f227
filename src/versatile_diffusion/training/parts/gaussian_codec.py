"""What the training of small variational autoencoders has in common, whatever their grids show."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from versatile_diffusion.modalities.gaussian import GaussianCodec
from versatile_diffusion.training.engine.contract import Objective
from versatile_diffusion.training.engine.optimizer import adamw_and_muon, split_parameters

Autoencoder = TypeVar("Autoencoder", bound=GaussianCodec)
AT_ONCE, MEASURED = 64, 4096
"""Values per pass without gradients; training values whose latents are measured."""


@dataclass(frozen=True)
class GaussianCodecSettings:
    """Architecture and training settings of a small autoencoder.

    Args:
        widths: channels at 1/2 and 1/4 of the grid's size.
        batch_size: values per step.
        lr, weight_decay: of AdamW.
        gradient_weight, kl_weight: weights of the loss on differences of neighbours and of the KL divergence.
        shift: maximum random translation, in cells of the grid.
        muon_lr: learning rate of Muon for convolution filters; None: AdamW.
    """

    widths: tuple[int, int] = (64, 128)
    batch_size: int = 8
    lr: float = 2e-3
    weight_decay: float = 1e-4
    gradient_weight: float = 0.5
    kl_weight: float = 1e-4
    shift: int = 4
    muon_lr: float | None = 0.04


class GaussianCodecObjective(Objective[Autoencoder]):
    """L1 loss on values and on differences of neighbours plus a small KL term; evaluated on held-out values.

    Args:
        stored: training values as they are stored.
        held_out: evaluation values by split, likewise; sample sheets show the first split.
        settings: of the codec and its training.
        device: to train on.
    """

    recipe: GaussianCodecSettings
    metric: str
    """Name of what `compare` measures."""

    def __init__(
        self, stored: Tensor, held_out: Mapping[str, Tensor], settings: GaussianCodecSettings, device: torch.device
    ):
        self.recipe, self.device, self.batch_size = settings, device, settings.batch_size
        self.stored = stored.to(device)
        self.held_out = {split: values.to(device) for split, values in held_out.items()}

    @abstractmethod
    def compare(self, restored: Float[Tensor, "b c h w"], grids: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        """Measure each reconstruction."""

    @abstractmethod
    def grids(self, stored: Tensor) -> Float[Tensor, "b c h w"]:
        """Convert stored values to grids in [0, 1]."""

    def settings(self) -> dict[str, Any]:
        return asdict(self.recipe)

    def optimizers(self, module: Autoencoder) -> list[torch.optim.Optimizer]:
        last = max(place for place, layer in enumerate(module.decoder) if isinstance(layer, nn.Conv2d))
        not_muon = ("encoder.1.", f"decoder.{last}.")
        groups = split_parameters(module, muon=self.recipe.muon_lr is not None, not_muon=not_muon)
        return adamw_and_muon(groups, self.recipe, muon_weight_decay=0.0)

    def loss(self, module: Autoencoder, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Args: batch: grids and the noise of the posterior."""
        grids, noise = batch
        mean, log_variance = module.posterior(grids)
        output = module.reconstruct(mean + (0.5 * log_variance).exp() * noise)
        parts = {
            "l1": F.l1_loss(output, grids),
            "gradient": gradient_l1(output, grids),
            "kl": 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean(),
        }
        recipe = self.recipe
        total = parts["l1"] + recipe.gradient_weight * parts["gradient"] + recipe.kl_weight * parts["kl"]
        return total, parts

    def evaluate(self, module: Autoencoder) -> dict[str, float]:
        result = {}
        for split, stored in self.held_out.items():
            grids = map(self.grids, torch.split(stored, AT_ONCE))
            values = [self.compare(restore(module, part), part) for part in grids]
            result[f"{self.metric}/{split}"] = float(torch.cat(values).mean())
        return result

    def examples(self, module: Autoencoder, count: int) -> tuple[Float[Tensor, "b c h w"], Float[Tensor, "b c h w"]]:
        """Return held-out grids of the first split and their reconstructions."""
        stored = next(iter(self.held_out.values()))
        grids = self.grids(stored[torch.linspace(0, len(stored) - 1, count).long().to(self.device)])
        return grids, restore(module, grids)

    def export(self, module: Autoencoder, folder: Path) -> None:
        """Measure the latents of the training set and save the codec."""
        with torch.no_grad():
            chosen = self.stored[:: max(1, len(self.stored) // MEASURED)]
            latents = torch.cat([module.posterior(self.grids(part))[0] for part in torch.split(chosen, AT_ONCE)])
            module.latent_std.copy_(latents.std(dim=(0, 2, 3)))
            module.latent_mean.copy_(latents.mean(dim=(0, 2, 3)))
        module.save_pretrained(folder)


def restore(module: GaussianCodec, grids: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Encode grids to the posterior's mean, and decode that."""
    return module.reconstruct(module.posterior(grids)[0]).clamp(0, 1)


def gradient_l1(left: Float[Tensor, "b c h w"], right: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
    """Return the mean absolute difference of horizontal and vertical gradients; keeps edges sharp."""
    horizontal = F.l1_loss(left.diff(dim=3), right.diff(dim=3))
    return horizontal + F.l1_loss(left.diff(dim=2), right.diff(dim=2))
