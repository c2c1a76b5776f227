"""Small convolutional image autoencoder: 64 x 64 pixels to a 16 x 16 x 4 latent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers.configuration_utils import register_to_config
from einops import rearrange
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from versatile_diffusion.modalities.base import Generators
from versatile_diffusion.modalities.gaussian import GaussianCodec, grid_decoder, grid_encoder
from versatile_diffusion.modalities.image.colours import to_rgb
from versatile_diffusion.numeric import check_finite


def _decoder(low: int, high: int, latent: int) -> nn.Sequential:
    """Build the decoder, which ends with more convolutions at full size."""
    trunk = grid_decoder(latent, high, low, 12)
    return nn.Sequential(*trunk, nn.SiLU(), nn.Conv2d(12, 16, 3, padding=1), nn.SiLU(), nn.Conv2d(16, 3, 3, padding=1))


class LiteVAE(GaussianCodec):
    """Variational autoencoder for small images. Pixels are processed as 1 - x, so that a white background is zero.

    Args:
        widths: channels at 1/2 and 1/4 of the image's size.
        latent_channels: channels of the latent.
        sample_size: image side in pixels, a multiple of 4.

    Buffers:
        latent_mean, latent_std: per channel, measured on the training set; latents are normalised with them.
    """

    modality: ClassVar[str] = "image"
    slicing = False

    @register_to_config
    def __init__(self, widths: Sequence[int] = (64, 128), latent_channels: int = 4, sample_size: int = 64):
        super().__init__()
        if sample_size % 4:
            raise ValueError(f"sample_size is {sample_size}; it must be a multiple of 4")
        low, high = widths
        self.encoder = grid_encoder(3, low, high, latent_channels)
        self.decoder = _decoder(low, high, latent_channels)
        self.register_buffer("latent_mean", torch.zeros(latent_channels))
        self.register_buffer("latent_std", torch.ones(latent_channels))

    def latent_shape(self, **size: int) -> tuple[int, int, int]:
        """Return (channels, height / 4, width / 4); sides default to `sample_size`.

        Raises:
            ValueError: a side that is not a positive multiple of 4, or an unknown size argument.
        """
        if unknown := size.keys() - {"height", "width"}:
            raise ValueError(f"an image has no {', '.join(sorted(unknown))}; its size is height and width")
        height, width = (size.get(side, self.config.sample_size) for side in ("height", "width"))
        if height < 1 or width < 1 or height % 4 or width % 4:
            raise ValueError(f"an image of {width} x {height} pixels: both sides must be multiples of 4")
        return self.config.latent_channels, height // 4, width // 4

    def fit(self, value: Image.Image, **size: int) -> Image.Image:
        """Fit the image onto a white canvas of `height` by `width` pixels."""
        _, rows, columns = self.latent_shape(**size)
        return _on_canvas(value, 4 * rows, 4 * columns)

    def save_memory(self, way: str, on: bool) -> bool:
        """See `Codec.save_memory`; it has slicing alone."""
        if way == "slicing":
            self.slicing = on
        return way == "slicing"

    def posterior(
        self, pixels: Float[Tensor, "b 3 h w"]
    ) -> tuple[Float[Tensor, "b c h4 w4"], Float[Tensor, "b c h4 w4"]]:
        """Return mean and log-variance of the unscaled latent; `pixels` in [0, 1]."""
        mean, log_variance = self.encoder(1 - pixels).chunk(2, dim=1)
        return mean, log_variance.clamp(-20, 10)

    def reconstruct(self, latents: Float[Tensor, "b c h4 w4"]) -> Float[Tensor, "b 3 h w"]:
        """Decode unscaled latents to pixels (not clamped)."""
        return 1 - self.decoder(latents)

    @torch.no_grad()
    def encode(
        self, values: Sequence[Image.Image], generators: Generators = None, **size: int
    ) -> Float[Tensor, "b c h4 w4"]:
        """Encode images of any size, fitted onto a white canvas (see `fit`), to latents of unit variance.

        Raises:
            ValueError: not one generator per image.
        """
        mean, log_variance = self.posterior(self.pixels(values, **size))
        return self.sample(mean, log_variance, generators, "images")

    @torch.no_grad()
    def decode(
        self, latents: Float[Tensor, "b c h4 w4"], generators: Generators = None, **options: Any
    ) -> list[Image.Image]:
        """Decode latents of unit variance to RGB images, deterministically; there are no options."""
        if options:
            raise ValueError(f"the image decoder takes no options; got {', '.join(options)}")
        raw = self.denormalise(latents.to(self.device, self.dtype))
        pixels = torch.cat(
            [self.reconstruct(part) for part in torch.split(raw, 1 if self.slicing else max(len(raw), 1))]
        )
        pixels = check_finite(pixels, "the pixels that the codec decoded", self).clamp(0, 1)
        array = rearrange(pixels.float().mul(255).round().byte(), "b c h w -> b h w c").cpu().numpy()
        return [Image.fromarray(picture) for picture in array]

    def pixels(self, values: Sequence[Image.Image], **size: int) -> Float[Tensor, "b 3 h w"]:
        """Convert images to pixels in [0, 1], at the codec's (or the given) size and on its device."""
        return _pixels([self.fit(value, **size) for value in values]).to(self.device, self.dtype)


def pixels_of(values: Sequence[Image.Image], size: int) -> Float[Tensor, "b 3 h w"]:
    """Convert images to pixels in [0, 1], each fitted (antialiased) onto a white square of `size` pixels."""
    return _pixels([_on_canvas(value, size, size) for value in values])


def _pixels(pictures: Sequence[Image.Image]) -> Float[Tensor, "b 3 h w"]:
    array = np.stack([np.asarray(picture) for picture in pictures])
    return rearrange(torch.from_numpy(array).float() / 255, "b h w c -> b c h w")


def _on_canvas(value: Image.Image, height: int, width: int) -> Image.Image:
    picture = to_rgb(value).convert("RGBA")
    scale = min(height / picture.height, width / picture.width)
    if picture.size != (width, height):
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    canvas = Image.new("RGBA", (width, height), "white")
    canvas.alpha_composite(picture, ((width - picture.width) // 2, (height - picture.height) // 2))
    return canvas.convert("RGB")
