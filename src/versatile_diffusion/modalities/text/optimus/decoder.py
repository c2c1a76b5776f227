"""Optimus decoder: GPT-2 conditioned on a latent in two places.

The latent gives one memory vector per layer, used as key and value of an extra leading position (so the text starts at
position 1), and one vector that is added to every token embedding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import DynamicCache, GPT2Config, GPT2Model


@dataclass(frozen=True)
class DecoderState:
    """State between tokens: the key-value cache (extended in place), and the latent's embedding."""

    cache: DynamicCache
    embedding: Float[Tensor, "b h"]


class LatentDecoder(nn.Module):
    """Decoder from token ids and a latent to next-token logits.

    Args:
        gpt2: fields of transformers' `GPT2Config`.
        latent_size: channels of the latent.
        bias: whether the projections of the latent have a bias (the official ones have none).
    """

    def __init__(self, gpt2: dict[str, Any], latent_size: int, bias: bool = False):
        super().__init__()
        config = GPT2Config(bos_token_id=None, eos_token_id=None, **gpt2)  # special ids belong to the tokenization
        self.gpt2 = GPT2Model(config)
        self.to_memory = nn.Linear(latent_size, config.n_layer * config.n_embd, bias=bias)
        self.to_embedding = nn.Linear(latent_size, config.n_embd, bias=bias)

    @property
    def longest(self) -> int:
        """Maximum number of tokens, begin and end included; one position is the memory."""
        return self.gpt2.config.n_positions - 1

    def start(self, latent: Float[Tensor, "b z"]) -> DecoderState:
        """Return the state before the first token."""
        config = self.gpt2.config
        memory = rearrange(self.to_memory(latent), "b (l n d) -> l b n 1 d", l=config.n_layer, n=config.n_head)
        cache = DynamicCache(config=config)
        for layer, vector in enumerate(memory):
            cache.update(vector, vector, layer)
        return DecoderState(cache, self.to_embedding(latent))

    def hidden(self, ids: Int[Tensor, "b t"], state: DecoderState) -> Float[Tensor, "b t h"]:
        """Return the last hidden states of further tokens, which are added to `state`."""
        embeddings = self.gpt2.wte(ids) + rearrange(state.embedding, "b h -> b 1 h")
        hidden: Tensor = self.gpt2(
            inputs_embeds=embeddings, past_key_values=state.cache, use_cache=True
        ).last_hidden_state
        return hidden

    def logits(self, hidden: Float[Tensor, "b t h"]) -> Float[Tensor, "b t v"]:
        """Return next-token logits, with tied input embeddings."""
        return nn.functional.linear(hidden, self.gpt2.wte.weight)

    def forward(self, ids: Int[Tensor, "b t"], latent: Float[Tensor, "b z"]) -> Float[Tensor, "b t v"]:
        """Return the logits of the token after each of `ids`."""
        return self.logits(self.hidden(ids, self.start(latent)))
