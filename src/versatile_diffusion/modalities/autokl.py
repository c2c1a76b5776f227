"""The image codec of the official models: the KL autoencoder of Stable Diffusion (paper section 3.3)."""

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


class AutoKLCodec(Codec):
    """diffusers' `AutoencoderKL` between RGB pictures and scaled latents.

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
        """A codec that shares the weights of `vae`."""
        with torch.device("meta"):
            codec = cls({name: value for name, value in vae.config.items() if not name.startswith("_")})
        codec.vae.load_state_dict(vae.state_dict(keep_vars=True), assign=True)
        return codec.eval()

    @property
    def factor(self) -> int:
        """Pixels along one side of a latent's cell, e.g. 8."""
        return 2 ** (len(self.vae.config.block_out_channels) - 1)

    def latent_shape(self, **size: int) -> tuple[int, ...]:
        """Channels, rows and columns of the latent of a picture of `height` by `width` pixels (the size that the
        autoencoder was made for where left out).

        Raises:
            ValueError: a side is not a positive multiple of `factor`, or something else than a side is given.
        """
        if unknown := size.keys() - {"height", "width"}:
            raise ValueError(f"a picture has no {', '.join(sorted(unknown))}; its size is height and width")
        sides = [size.get(side, self.vae.config.sample_size) for side in ("height", "width")]
        if any(side < 1 or side % self.factor for side in sides):
            raise ValueError(
                f"a picture of {sides[1]} x {sides[0]} pixels: both sides must be multiples of {self.factor}"
            )
        return (self.vae.config.latent_channels, *(side // self.factor for side in sides))

    def fit(self, value: Image.Image, **size: int) -> Image.Image:
        """The picture stretched to `height` by `width` pixels (see `latent_shape`), as the original does."""
        rows, columns = (cells * self.factor for cells in self.latent_shape(**size)[1:])
        same = value.size == (columns, rows)
        return value if same else value.resize((columns, rows), Image.Resampling.BICUBIC)

    def encode(self, values: Sequence[Image.Image], generators: Generators = None, **size: int) -> Tensor:
        """Pictures of one size to latents (B, C, H / factor, W / factor).

        Args:
            values: PIL pictures; sides are multiples of `factor`.
            generators: one per picture, to sample the posterior; its mean is taken without them.
            size: `height` and `width`, where the pictures are to be stretched.

        Raises:
            ValueError: pictures of several sizes, sides that do not divide, or a wrong number of generators.
        """
        values = [self.fit(picture, **size) for picture in values] if size else values
        if len(sizes := {picture.size for picture in values}) != 1:
            raise ValueError(f"pictures encoded together must have one size; got {sorted(sizes) or 'no picture'}")
        self.latent_shape(width=values[0].width, height=values[0].height)
        pixels = np.stack([np.asarray(picture.convert("RGB")) for picture in values])
        scaled = torch.from_numpy(pixels).to(self.device, self.dtype) / 255
        return self.encode_pixels(rearrange(scaled, "b h w c -> b c h w"), generators)

    def decode(self, latents: Tensor, generators: Generators = None, **options: Any) -> list[Image.Image]:
        """Latents (B, C, h, w) to PIL pictures; nothing is sampled and no option is known."""
        if options:
            raise ValueError(f"the picture decoder takes no options; got {', '.join(options)}")
        pixels = self.decode_pixels(latents).float().mul(255).round().byte()
        return [Image.fromarray(picture) for picture in rearrange(pixels, "b c h w -> b h w c").cpu().numpy()]

    @torch.no_grad()
    def encode_pixels(self, pixels: Float[Tensor, "b 3 height width"], generators: Generators = None) -> Tensor:
        """RGB in [0, 1] to latents (B, C, h, w), see `encode`."""
        posterior = self.vae.encode(pixels.to(self.device, self.dtype) * 2 - 1).latent_dist
        return self.vae.config.scaling_factor * (posterior.mean + posterior.std * _noise(posterior.mean, generators))

    @torch.no_grad()
    def decode_pixels(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 height width"]:
        """Latents to RGB in [0, 1]."""
        raw = self.vae.decode(latents.to(self.device, self.dtype) / self.vae.config.scaling_factor).sample
        return ((raw + 1) / 2).clamp(0, 1)


def _noise(like: Tensor, generators: Generators) -> Tensor:
    """Standard normal numbers, item k from generator k so that an item does not depend on its batch."""
    if generators is None:
        return torch.zeros_like(like)
    if len(generators) != len(like):
        raise ValueError(f"{len(generators)} generators for {len(like)} pictures; one per picture is needed")
    drawn = [torch.randn(like.shape[1:], generator=generator, device=generator.device) for generator in generators]
    return torch.stack([noise.to(like) for noise in drawn])
