"""Two small context encoders, for images and short texts, with a shared space of content and style.

A token has `CONCEPT` channels for content and the rest for style. Token 0 is global, in the space shared by images and
texts; the others are local (an 8 x 8 grid, or the words). As in Versatile Diffusion, all tokens are divided by the norm
of token 0; then they are scaled to entries of about unit size.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.configuration_utils import register_to_config
from einops import rearrange, reduce
from jaxtyping import Bool, Float, Int
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor, nn

from versatile_diffusion.modalities.base import ContextEncoder
from versatile_diffusion.modalities.image import mask_levels
from versatile_diffusion.modalities.image.lite_vae import pixels_of
from versatile_diffusion.modalities.text import read_tokenizer, truncate_text
from versatile_diffusion.numeric import unit
from versatile_diffusion.printable import shown

CONCEPT = 160
SPACE = "dual"
TOKENIZER = "tokenizer.json"
_START = "<s>"


@dataclass(frozen=True)
class DualEmbedding:
    """Global vectors of a batch, each of unit norm: content (B, 160) and style (B, 32)."""

    concept: Tensor
    style: Tensor


@dataclass(frozen=True)
class Features:
    """Output of a tower: the global embedding, and local vectors (B, N, D) of any scale, zero for padding."""

    embedding: DualEmbedding
    local: Tensor

    def tokens(self, scale: float) -> Float[Tensor, "b n+1 d"]:
        """Return context tokens, global first, each with norm `scale` (padding stays zero)."""
        first = torch.cat([self.embedding.concept, self.embedding.style], dim=-1)
        return scale * unit(torch.cat([first[:, None], self.local], dim=1))


def split(vectors: Float[Tensor, "... d"]) -> DualEmbedding:
    """Split vectors into content and style, and normalise each."""
    concept, style = vectors[..., :CONCEPT], vectors[..., CONCEPT:]
    return DualEmbedding(unit(concept), unit(style))


def _norm_relu_conv(channels: int, out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, out, 3, stride=stride, padding=1, bias=False)
    )


class ConvBlock(nn.Module):
    """Twice BatchNorm, ReLU and 3 x 3 convolution, with a residual connection."""

    def __init__(self, channels: int):
        super().__init__()
        self.layers = nn.Sequential(_norm_relu_conv(channels, channels), _norm_relu_conv(channels, channels))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x + self.layers(x)


class DualImageEncoder(ContextEncoder):
    """Encoder of 64 x 64 images to 1 + 64 context tokens.

    Args:
        widths: channels at 1/2, 1/4 and 1/8 of the image's size.
        width: channels of a token; `CONCEPT` for content, the rest for style.
        token_scale: norm of a token; sqrt(width) gives entries of about one.
        sample_size: image side in pixels.
    """

    modality: ClassVar[str] = "image"
    space: ClassVar[str | None] = SPACE

    @register_to_config
    def __init__(
        self,
        widths: Sequence[int] = (32, 96, 192),
        width: int = 192,
        token_scale: float = 192**0.5,
        sample_size: int = 64,
    ):
        super().__init__()
        low, middle, high = widths
        self.grid = nn.Sequential(
            nn.PixelUnshuffle(2),
            nn.Conv2d(12, low, 3, padding=1),
            nn.Conv2d(low, middle, 3, stride=2, padding=1, bias=False),
            ConvBlock(middle),
            _norm_relu_conv(middle, high, stride=2),
            ConvBlock(high),
            ConvBlock(high),
            nn.BatchNorm2d(high),
            nn.ReLU(),
        )
        self.to_global = nn.Linear(2 * high, width)
        self.to_local = nn.Linear(high, width)

    def forward(self, pixels: Float[Tensor, "b 3 h w"], mask: Float[Tensor, "b h8 w8"] | None = None) -> Features:
        """Compute features of pixels in [0, 1]; `mask` is the weight of each grid cell."""
        grid = self.grid(1.5 * (1 - pixels))
        mask = torch.ones_like(grid[:, 0]) if mask is None else mask
        grid = grid * mask[:, None]
        area = reduce(mask, "b h w -> b 1", "sum").clamp_min(1e-6)
        mean = reduce(grid, "b c h w -> b c", "sum") / area
        pooled = torch.cat([mean, reduce(grid, "b c h w -> b c", "max")], dim=1)
        local = self.to_local(rearrange(grid, "b c h w -> b (h w) c")) * rearrange(mask, "b h w -> b (h w) 1")
        return Features(split(self.to_global(pooled)), local)

    @torch.no_grad()
    def encode(self, values: Sequence[Image.Image], masks: Sequence[Any] | None = None) -> Float[Tensor, "b n d"]:
        """Encode images of any size to context tokens (B, 65, 192); tokens outside the mask are zero.

        Args:
            values: images, each fitted onto a white square.
            masks: per image an "L" image or an array (H, W), white keeps; None for no mask.
        """
        return self._features(values, masks).tokens(self.config.token_scale)

    @torch.no_grad()
    def embed(self, values: Sequence[Image.Image]) -> DualEmbedding:
        """Return global vectors, comparable with those of texts by inner product."""
        return self._features(values, None).embedding

    def compare(self, values: Sequence[Image.Image]) -> Float[Tensor, "b d"]:
        """Return unit vectors of content, independent of style."""
        return self.embed(values).concept

    def _features(self, values: Sequence[Image.Image], masks: Sequence[Any] | None) -> Features:
        if masks is not None and len(masks) != len(values):
            raise ValueError(f"got {len(masks)} masks for {len(values)} images; give one per image, or None")
        pixels = pixels_of(values, self.config.sample_size).to(self.device, self.dtype)
        if masks is None or all(mask is None for mask in masks):
            return self(pixels)
        side = self.config.sample_size // 8
        grids = [_grid_mask(mask, picture, side) for mask, picture in zip(masks, values, strict=True)]
        return self(pixels, torch.stack(grids).to(pixels))


def _grid_mask(mask: Any, picture: Image.Image, side: int) -> Float[Tensor, "side side"]:
    """Return the mean of the mask per grid cell. A mask with the image's aspect ratio is fitted like the image, its
    edges extended into the margins; any other covers the square."""
    if mask is None:
        return torch.ones(side, side)
    array = mask_levels(mask)
    height, width = array.shape
    if abs(height - width * picture.height / picture.width) <= 1:
        spare = [max(height, width) - edge for edge in (height, width)]
        array = np.pad(array, [(one // 2, one - one // 2) for one in spare], mode="edge")
    return F.interpolate(torch.from_numpy(array)[None, None], size=(side, side), mode="area")[0, 0]


class TextBlock(nn.Module):
    """Pre-norm self-attention and a feed-forward layer with four times the width."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        if width % heads:
            raise ValueError(f"{width} channels cannot be split among {heads} attention heads")
        self.heads = heads
        self.norm_attention, self.norm_feed = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Float[Tensor, "b n d"], valid: Bool[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        query, key, value = rearrange(
            self.query_key_value(self.norm_attention(x)), "b n (three h d) -> three b h n d", three=3, h=self.heads
        )
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=valid[:, None, None, :])
        x = x + self.out(rearrange(mixed, "b h n d -> b n (h d)"))
        return x + self.feed(self.norm_feed(x))


class DualTextEncoder(ContextEncoder):
    """Encoder of short texts to 1 + 24 context tokens; padding tokens are zero.

    The tokenizer is part of the encoder: set it with `encoder.tokenizer = Tokenizer.from_file(...)`; `save_pretrained`
    and `from_pretrained` store it as `tokenizer.json`.

    Args:
        vocabulary: size of the tokenizer's vocabulary; 0 is padding.
        limit: maximum number of tokens.
        width: channels of a token; `CONCEPT` for content, the rest for style.
        depth, heads: size of the transformer.
        token_scale: norm of a token; sqrt(width) gives entries of about one.
    """

    modality: ClassVar[str] = "text"
    space: ClassVar[str | None] = SPACE
    tokenizer: Tokenizer | None = None

    @register_to_config
    def __init__(
        self,
        vocabulary: int = 4096,
        limit: int = 24,
        width: int = 192,
        depth: int = 3,
        heads: int = 6,
        token_scale: float = 192**0.5,
    ):
        super().__init__()
        self.words = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(limit, width)
        self.blocks = nn.ModuleList(TextBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.to_shared = nn.Linear(width, width)
        nn.init.normal_(self.words.weight, std=0.5)
        nn.init.normal_(self.positions.weight, std=0.1)

    def forward(self, ids: Int[Tensor, "b n"]) -> Features:
        """Compute features of token ids, padded with 0 at the end; the global vector is the mean over words."""
        valid = ids > 0
        x = self.words(ids) + self.positions(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x, valid)
        local = self.to_shared(self.norm(x)) * valid[..., None]
        mean = reduce(local, "b n d -> b d", "sum") / reduce(valid, "b n -> b 1", "sum").clamp_min(1)
        return Features(split(mean), local)

    @torch.no_grad()
    def encode(self, values: Sequence[str], masks: Sequence[Any] | None = None) -> Float[Tensor, "b n d"]:
        """Encode texts to context tokens (B, 25, 192).

        Raises:
            ValueError: more than 24 tokens, or a mask.
        """
        if masks is not None and any(mask is not None for mask in masks):
            raise ValueError("text does not support masks; give None")
        return self(self.ids(values)).tokens(self.config.token_scale)

    def fit(self, value: str) -> str:
        """Truncate the text to whole words that fit."""
        return truncate_text(value, lambda text: len(self._encodings([text])[0].ids) <= self.config.limit)

    @torch.no_grad()
    def embed(self, values: Sequence[str]) -> DualEmbedding:
        """Return global vectors, comparable with those of images by inner product."""
        return self(self.ids(values)).embedding

    @torch.no_grad()
    def compare(self, values: Sequence[str]) -> Float[Tensor, "b d"]:
        """Return unit vectors of content, independent of style; long texts are truncated."""
        return self(self.ids(values, cut=True)).embedding.concept

    def ids(self, values: Sequence[str], cut: bool = False) -> Int[Tensor, "b n"]:
        """Tokenize texts to ids (B, limit), lower-cased; an empty text is the start token alone.

        Args:
            values: texts.
            cut: truncate long texts instead of refusing them.

        Raises:
            ValueError: a text that is too long, or a missing tokenizer.
        """
        encodings = self._encodings(values)
        assert self.tokenizer is not None
        limit, start = self.config.limit, self.tokenizer.token_to_id(_START) or 0
        result = torch.zeros(len(values), limit, dtype=torch.long)
        for row, (value, encoding) in enumerate(zip(values, encodings, strict=True)):
            ids = (encoding.ids or [start])[: limit if cut else None]
            if len(ids) > limit:
                raise ValueError(f"the text {shown(value)} has {len(ids)} tokens; at most {limit} are allowed")
            result[row, : len(ids)] = torch.tensor(ids)
        return result.to(self.device)

    def _encodings(self, values: Sequence[str]) -> list[Any]:
        if self.tokenizer is None:
            raise ValueError(
                "this text encoder has no tokenizer: set encoder.tokenizer, or load an encoder that has one"
            )
        return self.tokenizer.encode_batch([value.lower().strip() for value in values])

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **options: Any) -> None:
        """Write config, weights and `tokenizer.json`."""
        super().save_pretrained(save_directory, *args, **options)
        if self.tokenizer is not None:
            self.tokenizer.save(str(Path(save_directory) / TOKENIZER), pretty=False)

    def read_beside(self, folder: Path) -> None:
        """Load the tokenizer if there is one."""
        if (file := folder / TOKENIZER).is_file():
            self.tokenizer = read_tokenizer(file)
