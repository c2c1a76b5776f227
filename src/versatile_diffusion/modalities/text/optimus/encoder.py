"""Optimus encoder: BERT, pooled, to mean and log-variance of the latent."""

from __future__ import annotations

from typing import Any, NamedTuple

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import BertConfig, BertModel


class Posterior(NamedTuple):
    """Gaussian posterior per latent channel."""

    mean: Float[Tensor, "b z"]
    logvar: Float[Tensor, "b z"]


class TextEncoder(nn.Module):
    """Encoder from token ids to the posterior of the latent.

    Args:
        bert: fields of transformers' `BertConfig`.
        latent_size: channels of the latent.
    """

    def __init__(self, bert: dict[str, Any], latent_size: int):
        super().__init__()
        config = BertConfig(**bert)
        self.bert = BertModel(config)
        self.to_moments = nn.Linear(config.hidden_size, 2 * latent_size, bias=False)

    def pooled(self, ids: Int[Tensor, "b t"], mask: Bool[Tensor, "b t"]) -> Float[Tensor, "b h"]:
        """Return one vector per text; `mask` is True for text tokens, begin and end included."""
        pooled: Tensor = self.bert(input_ids=ids, attention_mask=mask.long()).pooler_output
        return pooled

    def forward(self, ids: Int[Tensor, "b t"], mask: Bool[Tensor, "b t"]) -> Posterior:
        """Return the posterior; `mask` is True for text tokens, begin and end included."""
        return Posterior(*self.to_moments(self.pooled(ids, mask)).chunk(2, dim=-1))
