"""Training of the image codec."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from versatile_diffusion.modalities.image.lite_vae import LiteVAE, gradient_l1
from versatile_diffusion.sheets import in_rows
from versatile_diffusion.training.engine.loop import Objective
from versatile_diffusion.training.engine.optimizer import split_parameters


@dataclass(frozen=True)
class ImageCodecSettings:
    """Architecture and training settings of the image codec.

    Args:
        widths: of `LiteVAE`.
        batch_size: images per step.
        lr: of AdamW.
        weight_decay: of AdamW.
        gradient_weight, kl_weight: weights of the loss on image gradients and of the KL divergence.
        shift: maximum random translation in pixels, padded with white.
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


def pictures_to_pixels(pictures: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b 3 h w"]:
    """Convert stored images to pixels in [0, 1]."""
    return rearrange(pictures, "b h w c -> b c h w").float() / 255


def psnr(left: Float[Tensor, "b c h w"], right: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """PSNR of each image in dB, for pixels in [0, 1]."""
    return -10 * reduce((left - right) ** 2, "b c h w -> b", "mean").clamp_min(1e-10).log10()


class ImageCodecObjective(Objective[LiteVAE]):
    """L1 loss on pixels and image gradients plus a small KL term; evaluated by PSNR on held-out images.

    Args:
        pictures: training images.
        held_out: evaluation images by split; sample sheets show the first split.
        settings: of the codec and its training.
        device: to train on.
    """

    name = "image-codec"

    def __init__(
        self,
        pictures: UInt8[np.ndarray, "n h w 3"],
        held_out: Mapping[str, UInt8[np.ndarray, "_ h w 3"]],
        settings: ImageCodecSettings,
        device: torch.device,
    ):
        self.recipe, self.device, self.batch_size = settings, device, settings.batch_size
        self.pictures = torch.from_numpy(pictures).to(device)
        self.held_out = {split: torch.from_numpy(images).to(device) for split, images in held_out.items()}

    def settings(self) -> dict[str, Any]:
        return asdict(self.recipe)

    def build(self) -> LiteVAE:
        module = LiteVAE(widths=self.recipe.widths, sample_size=self.pictures.shape[1])
        return module.to(memory_format=torch.channels_last)

    def optimizers(self, module: LiteVAE) -> list[torch.optim.Optimizer]:
        recipe = self.recipe
        groups = split_parameters(module, muon=recipe.muon_lr is not None, not_muon=("encoder.1.", "decoder.15."))
        return groups.optimizers(recipe.lr, recipe.weight_decay, (0.9, 0.98), recipe.muon_lr or 0.0, 0.0, muon_steps=4)

    def batch(self, step: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Pixels (B, 3, H, W), randomly flipped and shifted, and noise for the posterior (B, C, H / 4, W / 4)."""
        size, side, device = self.batch_size, self.pictures.shape[1], self.device
        rows = torch.randint(len(self.pictures), (size,), generator=generator, device=device)
        pixels = pictures_to_pixels(self.pictures[rows])
        flip = torch.rand(size, generator=generator, device=device) < 0.5
        pixels = torch.where(flip[:, None, None, None], pixels.flip(3), pixels)
        shift = self.recipe.shift
        top, left = torch.randint(2 * shift + 1, (2,), generator=generator, device=device).tolist()
        pixels = F.pad(pixels, (shift,) * 4, value=1.0)[:, :, top : top + side, left : left + side]
        noise = torch.randn(size, 4, side // 4, side // 4, generator=generator, device=device)
        return pixels, noise

    def loss(self, module: LiteVAE, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        pixels, noise = batch
        mean, log_variance = module.posterior(pixels)
        output = module.reconstruct(mean + (0.5 * log_variance).exp() * noise)
        parts = {
            "l1": F.l1_loss(output, pixels),
            "gradient": gradient_l1(output, pixels),
            "kl": 0.5 * (mean**2 + log_variance.exp() - 1 - log_variance).mean(),
        }
        recipe = self.recipe
        total = parts["l1"] + recipe.gradient_weight * parts["gradient"] + recipe.kl_weight * parts["kl"]
        return total, parts

    def evaluate(self, module: LiteVAE) -> dict[str, float]:
        result = {}
        for split, pictures in self.held_out.items():
            values = [
                psnr(module.reconstruct(module.posterior(pixels)[0]).clamp(0, 1), pixels)
                for pixels in map(pictures_to_pixels, torch.split(pictures, 64))
            ]
            result[f"psnr/{split}"] = float(torch.cat(values).mean())
        return result

    def sample_sheet(self, module: LiteVAE, path: Path) -> None:
        """Write held-out images, each above its reconstruction."""
        pictures = next(iter(self.held_out.values()))
        rows = torch.linspace(0, len(pictures) - 1, 32).long()
        pixels = pictures_to_pixels(pictures[rows.to(self.device)])
        output = module.reconstruct(module.posterior(pixels)[0]).clamp(0, 1)
        above, below = (
            [Image.fromarray(image) for image in (rearrange(part, "n c h w -> n h w c") * 255).round().byte().numpy()]
            for part in (pixels.cpu(), output.cpu())
        )
        in_rows(above, below, columns=16).save(path.with_suffix(".png"))

    def export(self, module: LiteVAE, folder: Path) -> None:
        """Compute the latent statistics on the training set and save the codec."""
        with torch.no_grad():
            chosen = self.pictures[:: max(1, len(self.pictures) // 4096)]
            latents = torch.cat([module.posterior(pictures_to_pixels(part))[0] for part in torch.split(chosen, 64)])
            module.latent_std.copy_(latents.std(dim=(0, 2, 3)))
            module.latent_mean.copy_(latents.mean(dim=(0, 2, 3)))
        module.save_pretrained(folder)
