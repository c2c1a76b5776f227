"""Context encoder of Stable Diffusion v1: CLIP's last hidden states, neither projected nor normalised."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from jaxtyping import Float, Int
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from versatile_diffusion.modalities.base import ContextEncoder
from versatile_diffusion.modalities.encoders.clip import CLIPTextContext


class CLIPHiddenTextContext(CLIPTextContext):
    """CLIP text encoder that returns the last hidden states, as used by Stable Diffusion v1.

    Args:
        clip: arguments of `transformers.CLIPTextConfig`.
        tokenizer: saved and loaded with the weights; only `encode` needs it.
    """

    space = "clip-hidden"

    @register_to_config
    def __init__(self, clip: Mapping[str, Any], tokenizer: CLIPTokenizer | None = None) -> None:
        ContextEncoder.__init__(self)
        self.model = CLIPTextModel(CLIPTextConfig(**clip))  # type: ignore[assignment]
        self.tokenizer = tokenizer

    @torch.no_grad()
    def forward(self, ids: Int[Tensor, "b length"]) -> Float[Tensor, "b length d"]:
        """Encode token ids, padded with the end token, to contexts. Padding is not masked."""
        hidden: Tensor = self.model(input_ids=ids.to(self.device)).last_hidden_state
        return hidden
