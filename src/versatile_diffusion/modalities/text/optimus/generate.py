"""Batched autoregressive text generation with a key-value cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from versatile_diffusion.modalities.text.optimus.decoder import LatentDecoder
from versatile_diffusion.modalities.text.optimus.tokens import SpecialIds
from versatile_diffusion.numeric import check_finite, number, settle

FILLER = -1  # padding of rows that ended early


@dataclass(frozen=True)
class Sampling:
    """Sampling settings.

    Args:
        temperature: softmax temperature; 0 is greedy.
        top_k: keep the k most likely tokens; 0 disables.
        top_p: nucleus sampling threshold; 0 and 1 disable.
        max_length: maximum number of tokens, begin and end included.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    max_length: int = 30

    def __post_init__(self) -> None:
        ranges: dict[str, dict[str, Any]] = {
            "temperature": {},
            "top_k": {"whole": True},
            "top_p": {"most": 1},
            "max_length": {"least": 2, "whole": True},
        }
        settle(self, **{name: number(name, getattr(self, name), **allowed) for name, allowed in ranges.items()})


def filter_logits(logits: Float[Tensor, "b v"], top_k: int = 0, top_p: float = 1.0) -> Float[Tensor, "b v"]:
    """Set the logits of tokens outside top-k and top-p to minus infinity; see `Sampling`."""
    if top_k > 0:
        least = logits.topk(min(top_k, logits.shape[-1])).values[..., -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if 0 < top_p < 1:
        ordered, order = logits.sort(descending=True)
        shares = ordered.softmax(-1)
        before = shares.cumsum(-1) - shares  # keep the token that crosses the threshold
        drop = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, before > top_p)
        logits = logits.masked_fill(drop, -torch.inf)
    return logits


@torch.no_grad()
def generate(
    decoder: LatentDecoder,
    latent: Float[Tensor, "b z"],
    special: SpecialIds,
    sampling: Sampling,
    generators: Sequence[torch.Generator] | None = None,
) -> Int[Tensor, "b t"]:
    """Generate token ids from begin to end; rows that end early are padded with -1.

    With one generator per row, row k of a batch equals row k alone; without generators decoding is greedy.

    Raises:
        ValueError: not one generator per row, or a limit above the decoder's positions.
    """
    if generators is not None and len(generators) != len(latent):
        raise ValueError(f"{len(generators)} generators for {len(latent)} latents; give one per latent")
    if sampling.max_length > decoder.longest:
        raise ValueError(f"max_length is {sampling.max_length}; this decoder supports at most {decoder.longest} tokens")
    state = decoder.start(latent)
    token = torch.full((len(latent),), special.begin, device=latent.device)
    ended = torch.zeros_like(token, dtype=torch.bool)
    written = [token]
    while len(written) < sampling.max_length - 1 and not ended.all():
        logits = decoder.logits(decoder.hidden(token[:, None], state))[:, -1]
        check_finite(logits, "the logits of the next token", decoder)
        token = torch.where(ended, special.end, _choose(logits, sampling, generators, ended))
        written.append(token.masked_fill(ended, FILLER))
        ended = ended | (token == special.end)
    if not ended.all():
        written.append(torch.full_like(token, special.end).masked_fill(ended, FILLER))
    return torch.stack(written, dim=1)


def _choose(
    logits: Float[Tensor, "b v"],
    sampling: Sampling,
    generators: Sequence[torch.Generator] | None,
    ended: Bool[Tensor, " b"],
) -> Int[Tensor, " b"]:
    """Choose the next token of every row; finished rows draw no random numbers."""
    likeliest = logits.argmax(-1)
    if generators is None or sampling.temperature == 0:
        return likeliest
    shares = filter_logits(logits.float() / float(sampling.temperature), sampling.top_k, sampling.top_p).softmax(-1)
    rows = zip(shares, likeliest, generators, ended.tolist(), strict=True)
    drawn = [
        fallback if over else torch.multinomial(share.to(generator.device), 1, generator=generator)[0]
        for share, fallback, generator, over in rows
    ]
    return torch.stack([token.to(logits.device) for token in drawn])
