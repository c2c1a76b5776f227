"""Context encoders of the official models: CLIP's two towers, with all tokens (paper section 3.3)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.configuration_utils import register_to_config
from einops import rearrange
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from versatile_diffusion.modalities.base import ContextEncoder
from versatile_diffusion.modalities.image import mask_levels
from versatile_diffusion.modalities.image.colours import to_rgb
from versatile_diffusion.modalities.text import truncate_text
from versatile_diffusion.numeric import unit, widen
from versatile_diffusion.printable import shown
from versatile_diffusion.reading import reading

SPACE = "clip"
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
_LONGEST_STRIP = 16  # long side over short side


class CLIPTextContext(ContextEncoder):
    """CLIP text encoder: all tokens projected, divided by the norm of the projected pooled token.

    Args:
        clip: arguments of `transformers.CLIPTextConfig`.
        tokenizer: saved and loaded with the weights; only `encode` needs it.
    """

    modality = "text"
    space = SPACE
    ignore_for_config = ["tokenizer"]  # noqa: RUF012 (diffusers' form)

    @register_to_config
    def __init__(self, clip: Mapping[str, Any], tokenizer: CLIPTokenizer | None = None) -> None:
        super().__init__()
        self.model = CLIPTextModelWithProjection(CLIPTextConfig(**clip))
        self.tokenizer = tokenizer

    @property
    def length(self) -> int:
        """Tokens per context, including start and end, e.g. 77."""
        return self.model.config.max_position_embeddings

    @torch.no_grad()
    def forward(self, ids: Int[Tensor, "b length"]) -> Float[Tensor, "b length d"]:
        """Encode token ids, padded with the end token, to contexts. Padding is not masked."""
        out = self.model(input_ids=ids.to(self.device))
        return _divide(self.model.text_projection(out.last_hidden_state), out.text_embeds[:, None])

    def encode(self, values: Sequence[str], masks: Sequence[Any] | None = None) -> Tensor:
        """Encode texts to contexts (B, length, D).

        Raises:
            ValueError: a text that is too long, a mask, or a missing tokenizer.
        """
        if any(mask is not None for mask in masks or ()):
            raise ValueError("text does not support masks; omit the mask")
        if self.tokenizer is None:
            raise ValueError("this CLIP text encoder was built without a tokenizer; set .tokenizer, or pass token ids")
        rows = self.tokenizer(list(values))["input_ids"]
        for text, row in zip(values, rows, strict=True):
            if len(row) > self.length:
                raise ValueError(
                    f"prompt too long: {len(row) - 2} tokens, at most {self.length - 2} are allowed: {shown(text[:60])}"
                )
        return self(self._padded(rows))

    def fit(self, value: str) -> str:
        """Truncate the text to whole words that fit."""
        assert self.tokenizer is not None
        tokenizer = self.tokenizer
        return truncate_text(value, lambda text: len(tokenizer(text)["input_ids"]) <= self.length)

    @torch.no_grad()
    def compare(self, values: Sequence[str]) -> Float[Tensor, "b d"]:
        """Encode texts to CLIP unit vectors; long texts are truncated."""
        if self.tokenizer is None:
            raise ValueError("this CLIP text encoder was built without a tokenizer; set .tokenizer")
        rows = self.tokenizer(list(values), truncation=True, max_length=self.length)["input_ids"]
        return unit(self.model(input_ids=self._padded(rows).to(self.device)).text_embeds)

    def _padded(self, rows: Sequence[list[int]]) -> Int[Tensor, "b length"]:
        assert self.tokenizer is not None
        filler = self.tokenizer.pad_token_id
        return torch.tensor([row + [filler] * (self.length - len(row)) for row in rows])

    def save_pretrained(self, save_directory: str | PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Write the weights, and the tokenizer if there is one."""
        super().save_pretrained(save_directory, *args, **kwargs)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(save_directory)

    def read_beside(self, folder: Path) -> None:
        """Load the tokenizer if there is one."""
        self.tokenizer = load_tokenizer(folder)


def load_tokenizer(folder: str | PathLike[str]) -> CLIPTokenizer | None:
    """Load CLIP's tokenizer from a folder; None if it has none."""
    known = any((Path(folder) / name).is_file() for name in ("tokenizer.json", "vocab.json"))
    if not known:
        return None
    with reading(folder, "a CLIP tokenizer"):
        tokenizer: CLIPTokenizer = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)  # nosec B615 # a local folder
        return tokenizer


class CLIPImageContext(ContextEncoder):
    """CLIP image encoder: all tokens normalised and projected, divided by the norm of token 0.

    Args:
        clip: arguments of `transformers.CLIPVisionConfig`.
    """

    modality = "image"
    space = SPACE

    @register_to_config
    def __init__(self, clip: Mapping[str, Any]) -> None:
        super().__init__()
        self.model = CLIPVisionModelWithProjection(CLIPVisionConfig(**clip))

    @property
    def side(self) -> int:
        """Input height and width in pixels, e.g. 224."""
        return _first(self.model.config.image_size)

    @torch.no_grad()
    def forward(
        self, pixel_values: Float[Tensor, "b 3 side side"], masks: Float[Tensor, "b 1 h w"] | None = None
    ) -> Float[Tensor, "b tokens d"]:
        """Encode preprocessed images to contexts; masks (1 keeps) are resized to the same square.

        Masked parts are removed from the embeddings before the first norm, and from the context again.
        """
        tower = self.model.vision_model
        kept = 1 if masks is None else self.token_masks(masks)
        hidden = tower.pre_layrnorm(tower.embeddings(pixel_values.to(self.device, self.dtype)) * kept)
        hidden = tower.post_layernorm(tower.encoder(inputs_embeds=hidden).last_hidden_state)
        tokens = self.model.visual_projection(hidden)
        return _divide(tokens, tokens[:, :1]) * kept

    def token_masks(self, masks: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b tokens 1"]:
        """Return the mask value of each token: the overall mean for token 0, the patch mean for the others."""
        square = (self.side, self.side)
        mask = interpolate(masks.to(self.device, torch.float32).clamp(0, 1), square, mode="bilinear")
        patches = rearrange(avg_pool2d(mask, _first(self.model.config.patch_size)), "b 1 h w -> b (h w) 1")
        return torch.cat([mask.mean(dim=(2, 3))[:, None], patches], dim=1).to(self.dtype)

    def preprocess(self, pictures: Sequence[Image.Image]) -> Float[Tensor, "b 3 side side"]:
        """Preprocess PIL images: bicubic resize to `side` on the short side, centre crop, CLIP's mean and standard
        deviation. Implemented here because transformers' processors changed between releases."""
        crops = np.stack([np.asarray(_centre(to_rgb(picture), self.side)) for picture in pictures])
        scaled = torch.from_numpy(crops).float() / 255
        return rearrange((scaled - torch.tensor(MEAN)) / torch.tensor(STD), "b h w c -> b c h w")

    def encode(self, values: Sequence[Image.Image], masks: Sequence[Any] | None = None) -> Tensor:
        """Encode images to contexts (B, tokens, D).

        Args:
            values: PIL images of any size.
            masks: per image None, or a mask as in `mask_levels`; white keeps. A mask with its image's aspect ratio is
                cropped like it; any other covers the cropped square.

        Raises:
            ValueError: an invalid mask, or not one entry per image.
        """
        if masks is None or all(mask is None for mask in masks):
            return self(self.preprocess(values))
        if len(masks) != len(values):
            raise ValueError(f"{len(masks)} masks for {len(values)} images; give one per image (or None)")
        squares = [self._square_mask(mask, picture) for mask, picture in zip(masks, values, strict=True)]
        return self(self.preprocess(values), torch.cat(squares))

    def compare(self, values: Sequence[Image.Image]) -> Float[Tensor, "b d"]:
        """Encode images to CLIP unit vectors."""
        return unit(self.encode(values)[:, 0])

    def _square_mask(self, mask: Any, picture: Image.Image) -> Float[Tensor, "1 1 side side"]:
        if mask is None:
            return torch.ones(1, 1, self.side, self.side)
        array = mask_levels(mask, most=math.inf)
        whole = torch.from_numpy(array)[None, None]
        height, width = array.shape
        if abs(height - width * picture.height / picture.width) <= 1:
            short = min(height, width)
            top, left = (height - short) // 2, (width - short) // 2
            whole = whole[..., top : top + short, left : left + short]
        return interpolate(whole, (self.side, self.side), mode="bilinear")


def _divide(tokens: Float[Tensor, "b tokens d"], by: Float[Tensor, "b 1 d"]) -> Float[Tensor, "b tokens d"]:
    """Divide tokens by the norm of one of them; a zero norm, e.g. from an empty mask, gives zeros."""
    norm: Tensor = widen(by).norm(dim=-1, keepdim=True)
    return (widen(tokens) / norm.clamp_min(torch.finfo(norm.dtype).tiny)).to(tokens.dtype)


def _first(size: Any) -> int:
    """Return the first of a number or pair; CLIP's images and patches are square."""
    return size if isinstance(size, int) else size[0]


def _centre(picture: Image.Image, side: int) -> Image.Image:
    """Resize bicubically to `side` on the short side, and crop the centre square. Very long strips are cropped first,
    since enlarging them could exhaust memory."""
    short = min(picture.size)
    left, top = (max(0, edge - _LONGEST_STRIP * short) // 2 for edge in picture.size)
    picture = picture.crop((left, top, picture.width - left, picture.height - top))
    width, height = (side if edge == short else int(side * edge / short) for edge in picture.size)
    left, top = (width - side) // 2, (height - side) // 2
    return picture.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + side, top + side))
