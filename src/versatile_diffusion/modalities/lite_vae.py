"""A small convolutional autoencoder for pictures: 64 x 64 pixels to a 16 x 16 x 4 latent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from einops import rearrange
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from versatile_diffusion.modalities.base import Codec, Generators


class ResidualBlock(nn.Module):
    """Norm, SiLU, 3 x 3 convolution, twice, added to the input."""

    def __init__(self, channels: int):
        super().__init__()
        self.layers = nn.Sequential(*_norm_conv(channels, channels), *_norm_conv(channels, channels))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x + self.layers(x)


def _norm_conv(channels: int, out: int) -> list[nn.Module]:
    return [nn.GroupNorm(min(16, channels), channels), nn.SiLU(), nn.Conv2d(channels, out, 3, padding=1)]


def _encoder(low: int, high: int, latent: int) -> nn.Sequential:
    return nn.Sequential(
        nn.PixelUnshuffle(2),
        nn.Conv2d(12, low, 3, padding=1),
        ResidualBlock(low),
        nn.Conv2d(low, high, 3, stride=2, padding=1),
        ResidualBlock(high),
        ResidualBlock(high),
        *_norm_conv(high, 2 * latent),
    )


def _decoder(low: int, high: int, latent: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(latent, high, 3, padding=1),
        *(ResidualBlock(high) for _ in range(3)),
        nn.Upsample(scale_factor=2, mode="nearest"),
        nn.Conv2d(high, low, 3, padding=1),
        *(ResidualBlock(low) for _ in range(2)),
        *_norm_conv(low, 48),
        nn.PixelShuffle(2),
        nn.SiLU(),
        nn.Conv2d(12, 16, 3, padding=1),
        nn.SiLU(),
        nn.Conv2d(16, 3, 3, padding=1),
    )


class LiteVAE(Codec):
    """Variational autoencoder of small pictures. Inside, pixels are 1 - x: white, the usual background, is zero.

    Args:
        widths: channels at half and at a quarter of the picture's size.
        latent_channels: channels of the latent.
        sample_size: side of a picture in pixels, a multiple of 4.

    Buffers:
        latent_mean, latent_std: per channel, measured on the training set; latents leave at unit variance.
    """

    modality: ClassVar[str] = "image"

    @register_to_config
    def __init__(self, widths: Sequence[int] = (64, 128), latent_channels: int = 4, sample_size: int = 64):
        super().__init__()
        if sample_size % 4:
            raise ValueError(f"sample_size is {sample_size}; it must be a multiple of 4")
        low, high = widths
        self.encoder = _encoder(low, high, latent_channels)
        self.decoder = _decoder(low, high, latent_channels)
        self.register_buffer("latent_mean", torch.zeros(latent_channels))
        self.register_buffer("latent_std", torch.ones(latent_channels))

    def latent_shape(self, **size: int) -> tuple[int, int, int]:
        """(channels, height / 4, width / 4); a side that is left out is `sample_size`.

        Raises:
            ValueError: a side is not a positive multiple of 4, or something else than a side is given.
        """
        if unknown := size.keys() - {"height", "width"}:
            raise ValueError(f"a picture has no {', '.join(sorted(unknown))}; its size is height and width")
        height, width = (size.get(side, self.config.sample_size) for side in ("height", "width"))
        if height < 1 or width < 1 or height % 4 or width % 4:
            raise ValueError(f"a picture of {width} x {height} pixels: both sides must be multiples of 4")
        return self.config.latent_channels, height // 4, width // 4

    def fit(self, value: Image.Image, **size: int) -> Image.Image:
        """The picture scaled to fit a white canvas of `height` by `width` pixels."""
        _, rows, columns = self.latent_shape(**size)
        return _on_canvas(value, 4 * rows, 4 * columns)

    def posterior(
        self, pixels: Float[Tensor, "b 3 h w"]
    ) -> tuple[Float[Tensor, "b c h4 w4"], Float[Tensor, "b c h4 w4"]]:
        """Mean and logarithm of the variance of the unscaled latent; `pixels` in [0, 1]."""
        mean, log_variance = self.encoder(1 - pixels).chunk(2, dim=1)
        return mean, log_variance.clamp(-20, 10)

    def reconstruct(self, latents: Float[Tensor, "b c h4 w4"]) -> Float[Tensor, "b 3 h w"]:
        """Pixels (not clamped) of unscaled latents."""
        return 1 - self.decoder(latents)

    def normalise(self, latents: Float[Tensor, "b c h4 w4"]) -> Float[Tensor, "b c h4 w4"]:
        """Unscaled latents to those of unit variance that the diffuser sees."""
        return (latents - self.latent_mean[:, None, None]) / self.latent_std[:, None, None]

    def denormalise(self, latents: Float[Tensor, "b c h4 w4"]) -> Float[Tensor, "b c h4 w4"]:
        """The inverse of `normalise`."""
        return latents * self.latent_std[:, None, None] + self.latent_mean[:, None, None]

    @torch.no_grad()
    def encode(
        self, values: Sequence[Image.Image], generators: Generators = None, **size: int
    ) -> Float[Tensor, "b c h4 w4"]:
        """Pictures of any size, each fitted onto a white canvas (see `fit`), to latents of unit variance.

        Raises:
            ValueError: the number of generators is not the number of pictures.
        """
        mean, log_variance = self.posterior(self.pixels(values, **size))
        if generators is None:
            return self.normalise(mean)
        if len(generators) != len(mean):
            raise ValueError(f"got {len(generators)} generators for {len(mean)} pictures; give one each")
        noise = torch.stack([torch.randn(mean.shape[1:], generator=g, device=g.device) for g in generators])
        return self.normalise(mean + (0.5 * log_variance).exp() * noise.to(mean))

    @torch.no_grad()
    def decode(
        self, latents: Float[Tensor, "b c h4 w4"], generators: Generators = None, **options: Any
    ) -> list[Image.Image]:
        """Latents of unit variance to RGB pictures."""
        pixels = self.reconstruct(self.denormalise(latents.to(self.device, self.dtype))).clamp(0, 1)
        array = rearrange(pixels.float().mul(255).round().byte(), "b c h w -> b h w c").cpu().numpy()
        return [Image.fromarray(picture) for picture in array]

    def pixels(self, values: Sequence[Image.Image], **size: int) -> Float[Tensor, "b 3 h w"]:
        """Pictures to pixels in [0, 1] at the size of this codec (or that asked for), on its device."""
        return _pixels([self.fit(value, **size) for value in values]).to(self.device, self.dtype)


def pixels_of(values: Sequence[Image.Image], size: int) -> Float[Tensor, "b 3 h w"]:
    """Pictures to pixels in [0, 1]: each scaled (antialiased) to fit a white square of `size` pixels."""
    return _pixels([_on_canvas(value, size, size) for value in values])


def _pixels(pictures: Sequence[Image.Image]) -> Float[Tensor, "b 3 h w"]:
    array = np.stack([np.asarray(picture) for picture in pictures])
    return rearrange(torch.from_numpy(array).float() / 255, "b h w c -> b c h w")


def _on_canvas(value: Image.Image, height: int, width: int) -> Image.Image:
    picture = value.convert("RGBA")
    scale = min(height / picture.height, width / picture.width)
    if picture.size != (width, height):
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    canvas = Image.new("RGBA", (width, height), "white")
    canvas.alpha_composite(picture, ((width - picture.width) // 2, (height - picture.height) // 2))
    return canvas.convert("RGB")


def gradient_l1(left: Float[Tensor, "b c h w"], right: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
    """Mean absolute difference of the horizontal and of the vertical pixel differences; keeps edges sharp."""
    horizontal = F.l1_loss(left.diff(dim=3), right.diff(dim=3))
    return horizontal + F.l1_loss(left.diff(dim=2), right.diff(dim=2))
