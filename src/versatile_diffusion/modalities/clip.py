"""The context encoders of the official models: CLIP's two towers, every token kept (paper section 3.3)."""

from __future__ import annotations

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
from torch.nn.functional import avg_pool2d, interpolate, normalize
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from versatile_diffusion.modalities.base import ContextEncoder
from versatile_diffusion.modalities.text import shortened

SPACE = "clip"
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
_LONGEST_STRIP = 16  # long side over short side


class CLIPTextContext(ContextEncoder):
    """Text to context tokens: every token projected, divided by the norm of the projected pooled token.

    Args:
        clip: arguments of `transformers.CLIPTextConfig`.
        tokenizer: saved and loaded beside the weights; only `encode` needs it.
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
        """Tokens of every context, start and end included, e.g. 77."""
        return self.model.config.max_position_embeddings

    @torch.no_grad()
    def forward(self, ids: Int[Tensor, "b length"]) -> Float[Tensor, "b length d"]:
        """Token ids, filled up with the end token, to a context. No token is masked."""
        out = self.model(input_ids=ids.to(self.device))
        return self.model.text_projection(out.last_hidden_state) / out.text_embeds.norm(dim=-1)[:, None, None]

    def encode(self, values: Sequence[str], masks: Sequence[Any] | None = None) -> Tensor:
        """Texts to contexts (B, length, D).

        Raises:
            ValueError: a text is too long, a mask is given, or there is no tokenizer.
        """
        if any(mask is not None for mask in masks or ()):
            raise ValueError("a text has no mask; leave it out, or give a picture with the mask")
        if self.tokenizer is None:
            raise ValueError("this CLIP text encoder was built without a tokenizer; set .tokenizer, or give token ids")
        rows = self.tokenizer(list(values))["input_ids"]
        for text, row in zip(values, rows, strict=True):
            if len(row) > self.length:
                raise ValueError(
                    f"prompt too long: {len(row) - 2} tokens, at most {self.length - 2} are allowed: {text[:60]!r}"
                )
        return self(self._padded(rows))

    def fit(self, value: str) -> str:
        """The text without the last words that are too many."""
        assert self.tokenizer is not None
        tokenizer = self.tokenizer
        return shortened(value, lambda text: len(tokenizer(text)["input_ids"]) <= self.length)

    @torch.no_grad()
    def compare(self, values: Sequence[str]) -> Float[Tensor, "b d"]:
        """Texts to CLIP's own unit vectors; a text that is too long is cut."""
        if self.tokenizer is None:
            raise ValueError("this CLIP text encoder was built without a tokenizer; set .tokenizer")
        rows = self.tokenizer(list(values), truncation=True, max_length=self.length)["input_ids"]
        return normalize(self.model(input_ids=self._padded(rows).to(self.device)).text_embeds, dim=-1)

    def _padded(self, rows: Sequence[list[int]]) -> Int[Tensor, "b length"]:
        assert self.tokenizer is not None
        filler = self.tokenizer.pad_token_id
        return torch.tensor([row + [filler] * (self.length - len(row)) for row in rows])

    def save_pretrained(self, save_directory: str | PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Writes the weights, and the tokenizer (where there is one) beside them."""
        super().save_pretrained(save_directory, *args, **kwargs)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(save_directory)

    @classmethod
    def from_pretrained(cls, folder: str | PathLike[str], **kwargs: Any) -> CLIPTextContext:  # type: ignore[override]
        """Reads what `save_pretrained` wrote."""
        encoder = super().from_pretrained(folder, **kwargs)
        encoder.tokenizer = load_tokenizer(folder)
        return encoder


def load_tokenizer(folder: str | PathLike[str]) -> CLIPTokenizer | None:
    """CLIP's tokenizer from a folder, None where there is none."""
    known = any((Path(folder) / name).is_file() for name in ("tokenizer.json", "vocab.json"))
    return CLIPTokenizer.from_pretrained(str(folder)) if known else None


class CLIPImageContext(ContextEncoder):
    """Pictures to context tokens: all tokens normalised and projected, divided by the norm of token 0.

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
        """Height and width in pixels of what the network sees, e.g. 224."""
        return _first(self.model.config.image_size)

    @torch.no_grad()
    def forward(
        self, pixel_values: Float[Tensor, "b 3 side side"], masks: Float[Tensor, "b 1 h w"] | None = None
    ) -> Float[Tensor, "b tokens d"]:
        """Pictures as `preprocess` returns them to contexts; masks (1 keeps) are stretched over the same square.

        What is masked is taken out of the embeddings before the first norm, and out of the context again.
        """
        tower = self.model.vision_model
        kept = 1 if masks is None else self.token_masks(masks)
        hidden = tower.pre_layrnorm(tower.embeddings(pixel_values.to(self.device, self.dtype)) * kept)
        hidden = tower.post_layernorm(tower.encoder(inputs_embeds=hidden).last_hidden_state)
        tokens = self.model.visual_projection(hidden)
        norm = tokens[:, :1].norm(dim=-1, keepdim=True)
        return tokens / norm.clamp_min(torch.finfo(norm.dtype).tiny) * kept  # an empty mask may leave 0 / 0

    def token_masks(self, masks: Float[Tensor, "b 1 h w"]) -> Float[Tensor, "b tokens 1"]:
        """How much of each token a mask keeps: the mean of the whole for token 0, of its patch for each other."""
        square = (self.side, self.side)
        mask = interpolate(masks.to(self.device, torch.float32).clamp(0, 1), square, mode="bilinear")
        patches = rearrange(avg_pool2d(mask, _first(self.model.config.patch_size)), "b 1 h w -> b (h w) 1")
        return torch.cat([mask.mean(dim=(2, 3))[:, None], patches], dim=1).to(self.dtype)

    def preprocess(self, pictures: Sequence[Image.Image]) -> Float[Tensor, "b 3 side side"]:
        """PIL pictures to what the network sees: bicubic to `side` on the short side, centre crop, CLIP's mean and
        standard deviation. Done here, since transformers' own processors changed between releases."""
        crops = np.stack([np.asarray(_centre(picture.convert("RGB"), self.side)) for picture in pictures])
        scaled = torch.from_numpy(crops).float() / 255
        return rearrange((scaled - torch.tensor(MEAN)) / torch.tensor(STD), "b h w c -> b c h w")

    def encode(self, values: Sequence[Image.Image], masks: Sequence[Any] | None = None) -> Tensor:
        """Pictures to contexts (B, tokens, D).

        Args:
            values: PIL pictures of any sizes.
            masks: per picture None, an "L" picture, or an (H, W) array in [0, 1] (uint8: 0..255); white keeps. A mask
                shaped like its picture is cropped like it; any other covers the square that the network sees.

        Raises:
            ValueError: not one mask entry per picture, or a mask that is no picture and has not two axes.
        """
        if masks is None or all(mask is None for mask in masks):
            return self(self.preprocess(values))
        if len(masks) != len(values):
            raise ValueError(f"{len(masks)} masks for {len(values)} pictures; one per picture (or None) is needed")
        squares = [self._square_mask(mask, picture) for mask, picture in zip(masks, values, strict=True)]
        return self(self.preprocess(values), torch.cat(squares))

    def compare(self, values: Sequence[Image.Image]) -> Float[Tensor, "b d"]:
        """Pictures to CLIP's own unit vectors."""
        return normalize(self.encode(values)[:, 0], dim=-1)

    def _square_mask(self, mask: Any, picture: Image.Image) -> Float[Tensor, "1 1 side side"]:
        if mask is None:
            return torch.ones(1, 1, self.side, self.side)
        array = np.asarray(mask.convert("L") if isinstance(mask, Image.Image) else mask)
        if array.ndim != 2:
            raise ValueError(f'a mask is an "L" picture or an array (H, W) in [0, 1]; got an array of {array.shape}')
        whole = torch.tensor(array / 255 if array.dtype == np.uint8 else array, dtype=torch.float32)[None, None]
        height, width = array.shape
        if abs(height - width * picture.height / picture.width) <= 1:
            short = min(height, width)
            top, left = (height - short) // 2, (width - short) // 2
            whole = whole[..., top : top + short, left : left + short]
        return interpolate(whole.clamp(0, 1), (self.side, self.side), mode="bilinear")


def _first(size: Any) -> int:
    """transformers allows a number or a pair; CLIP's pictures and patches are square."""
    return size if isinstance(size, int) else size[0]


def _centre(picture: Image.Image, side: int) -> Image.Image:
    """Bicubic to `side` on the short side, then the centre square. The far ends of a long strip, which nobody sees,
    are cut off first, for enlarging it could fill the memory."""
    short = min(picture.size)
    left, top = (max(0, edge - _LONGEST_STRIP * short) // 2 for edge in picture.size)
    picture = picture.crop((left, top, picture.width - left, picture.height - top))
    width, height = (side if edge == short else int(side * edge / short) for edge in picture.size)
    left, top = (width - side) // 2, (height - side) // 2
    return picture.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + side, top + side))
