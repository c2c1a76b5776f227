"""Training of the image codec."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from versatile_diffusion.modalities.image.lite_vae import LiteVAE
from versatile_diffusion.sheets import in_rows
from versatile_diffusion.training.parts.gaussian_codec import GaussianCodecObjective, GaussianCodecSettings


def pictures_to_pixels(pictures: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b 3 h w"]:
    """Convert stored images to pixels in [0, 1]."""
    return rearrange(pictures, "b h w c -> b c h w").float() / 255


def psnr(left: Float[Tensor, "b c h w"], right: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """PSNR of each image in dB, for pixels in [0, 1]."""
    return -10 * reduce((left - right) ** 2, "b c h w -> b", "mean").clamp_min(1e-10).log10()


class ImageCodecObjective(GaussianCodecObjective[LiteVAE]):
    """`GaussianCodecObjective` of pixels, evaluated by PSNR.

    Args:
        pictures: training images.
        held_out: evaluation images by split; sample sheets show the first split.
        settings: of the codec and its training.
        device: to train on.
    """

    name, metric = "image-codec", "psnr"

    def __init__(
        self,
        pictures: UInt8[np.ndarray, "n h w 3"],
        held_out: Mapping[str, UInt8[np.ndarray, "_ h w 3"]],
        settings: GaussianCodecSettings,
        device: torch.device,
    ):
        splits = {split: torch.from_numpy(images) for split, images in held_out.items()}
        super().__init__(torch.from_numpy(pictures), splits, settings, device)

    def compare(self, restored: Float[Tensor, "b 3 h w"], grids: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        return psnr(restored, grids)

    def grids(self, stored: UInt8[Tensor, "b h w 3"]) -> Float[Tensor, "b 3 h w"]:
        return pictures_to_pixels(stored)

    def build(self) -> LiteVAE:
        module = LiteVAE(widths=self.recipe.widths, sample_size=self.stored.shape[1])
        return module.to(memory_format=torch.channels_last)

    def batch(self, step: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Pixels (B, 3, H, W), randomly flipped and shifted (padded with white), and noise for the posterior
        (B, C, H / 4, W / 4)."""
        size, side, device = self.batch_size, self.stored.shape[1], self.device
        rows = torch.randint(len(self.stored), (size,), generator=generator, device=device)
        pixels = pictures_to_pixels(self.stored[rows])
        flip = torch.rand(size, generator=generator, device=device) < 0.5
        pixels = torch.where(flip[:, None, None, None], pixels.flip(3), pixels)
        shift = self.recipe.shift
        top, left = torch.randint(2 * shift + 1, (2,), generator=generator, device=device).tolist()
        pixels = F.pad(pixels, (shift,) * 4, value=1.0)[:, :, top : top + side, left : left + side]
        noise = torch.randn(size, 4, side // 4, side // 4, generator=generator, device=device)
        return pixels, noise

    def sample_sheet(self, module: LiteVAE, path: Path) -> None:
        """Write held-out images, each above its reconstruction."""
        above, below = (
            [Image.fromarray(image) for image in (rearrange(part, "n c h w -> n h w c") * 255).round().byte().numpy()]
            for part in (pixels.cpu() for pixels in self.examples(module, 32))
        )
        in_rows(above, below, columns=16).save(path.with_suffix(".png"))
