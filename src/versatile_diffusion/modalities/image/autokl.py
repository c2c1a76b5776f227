"""Image codec of the official models: Stable Diffusion's KL autoencoder (paper section 3.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from einops import rearrange
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from versatile_diffusion.modalities.base import Codec, Generators
from versatile_diffusion.modalities.image.colours import to_rgb
from versatile_diffusion.numeric import check_finite


class AutoKLCodec(Codec):
    """Codec between RGB images and scaled latents, by diffusers' `AutoencoderKL`.

    Args:
        autoencoder: arguments of `diffusers.AutoencoderKL`.
    """

    modality = "image"

    @register_to_config
    def __init__(self, autoencoder: Mapping[str, Any]) -> None:
        super().__init__()
        self.vae = AutoencoderKL(**autoencoder)

    @classmethod
    def from_autoencoder(cls, vae: AutoencoderKL) -> AutoKLCodec:
        """Create a codec that shares the weights of `vae`."""
        with torch.device("meta"):
            codec = cls({name: value for name, value in vae.config.items() if not name.startswith("_")})
        codec.vae.load_state_dict(vae.state_dict(keep_vars=True), assign=True)
        return codec.eval()

    @property
    def factor(self) -> int:
        """Downsampling factor, e.g. 8."""
        factor: int = 2 ** (len(self.vae.config.block_out_channels) - 1)
        return factor

    def latent_shape(self, **size: int) -> tuple[int, ...]:
        """Return channels, rows and columns of the latent of an image of `height` by `width` pixels (by default the
        training size).

        Raises:
            ValueError: a side that is not a positive multiple of `factor`, or an unknown size argument.
        """
        if unknown := size.keys() - {"height", "width"}:
            raise ValueError(f"an image has no {', '.join(sorted(unknown))}; its size is height and width")
        sides = [size.get(side, self.vae.config.sample_size) for side in ("height", "width")]
        if any(side < 1 or side % self.factor for side in sides):
            raise ValueError(
                f"an image of {sides[1]} x {sides[0]} pixels: both sides must be multiples of {self.factor}"
            )
        return (self.vae.config.latent_channels, *(side // self.factor for side in sides))

    def fit(self, value: Image.Image, **size: int) -> Image.Image:
        """Resize the image to `height` by `width` pixels (see `latent_shape`) without keeping its aspect ratio, as the
        original does."""
        rows, columns = (cells * self.factor for cells in self.latent_shape(**size)[1:])
        same = value.size == (columns, rows)
        return value if same else value.resize((columns, rows), Image.Resampling.BICUBIC)

    def save_memory(self, way: str, on: bool) -> bool:
        """See `Codec.save_memory`; diffusers' autoencoder has both."""
        getattr(self.vae, f"{'enable' if on else 'disable'}_{way}")()
        return True

    def encode(self, values: Sequence[Image.Image], generators: Generators = None, **size: int) -> Tensor:
        """Encode images of one size to latents (B, C, H / factor, W / factor).

        Args:
            values: PIL images with sides that are multiples of `factor`.
            generators: one per image to sample the posterior; None takes its mean.
            size: `height` and `width` to resize to, if given.

        Raises:
            ValueError: different sizes, indivisible sides, or a wrong number of generators.
        """
        values = [self.fit(picture, **size) for picture in values] if size else values
        if len(sizes := {picture.size for picture in values}) != 1:
            raise ValueError(f"images encoded together must have one size; got {sorted(sizes) or 'no image'}")
        self.latent_shape(width=values[0].width, height=values[0].height)
        pixels = np.stack([np.asarray(to_rgb(picture)) for picture in values])
        scaled = torch.from_numpy(pixels).to(self.device, self.dtype) / 255
        return self.encode_pixels(rearrange(scaled, "b h w c -> b c h w"), generators)

    def decode(self, latents: Tensor, generators: Generators = None, **options: Any) -> list[Image.Image]:
        """Decode latents (B, C, h, w) to PIL images, deterministically; there are no options."""
        if options:
            raise ValueError(f"the image decoder takes no options; got {', '.join(options)}")
        pixels = self.decode_pixels(latents).float().mul(255).round().byte()
        return [Image.fromarray(picture) for picture in rearrange(pixels, "b c h w -> b h w c").cpu().numpy()]

    @torch.no_grad()
    def encode_pixels(self, pixels: Float[Tensor, "b 3 height width"], generators: Generators = None) -> Tensor:
        """Encode RGB in [0, 1] to latents (B, C, h, w); see `encode`."""
        posterior = self.vae.encode(pixels.to(self.device, self.dtype) * 2 - 1).latent_dist
        latents: Tensor = posterior.mean + posterior.std * _noise(posterior.mean, generators)
        scale: float = self.vae.config.scaling_factor
        return scale * latents

    @torch.no_grad()
    def decode_pixels(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 height width"]:
        """Decode latents to RGB in [0, 1]."""
        raw = self.vae.decode(latents.to(self.device, self.dtype) / self.vae.config.scaling_factor).sample
        return ((check_finite(raw, "the pixels that the codec decoded", self) + 1) / 2).clamp(0, 1)


def _noise(like: Tensor, generators: Generators) -> Tensor:
    """Draw standard normal noise, item k from generator k, so that it does not depend on the batch."""
    if generators is None:
        return torch.zeros_like(like)
    if len(generators) != len(like):
        raise ValueError(f"{len(generators)} generators for {len(like)} images; give one per image")
    drawn = [torch.randn(like.shape[1:], generator=generator, device=generator.device) for generator in generators]
    return torch.stack([noise.to(like) for noise in drawn])
