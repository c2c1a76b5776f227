"""Writing a text token by token, in batch, with a key and value cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from versatile_diffusion.modalities.optimus.decoder import LatentDecoder
from versatile_diffusion.modalities.optimus.tokens import SpecialIds

FILLER = -1  # fills up rows that ended early


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Args:
        temperature: of the softmax; 0 takes the likeliest token always.
        top_k: keep the k likeliest tokens; 0 keeps all.
        top_p: keep the likeliest tokens up to this share of the probability; 0 and 1 keep all.
        max_length: most tokens, begin and end counted; a row that gets there is ended.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    max_length: int = 30

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise ValueError(f"temperature is {self.temperature}; it must be 0 (greedy) or more")
        if self.top_k < 0:
            raise ValueError(f"top_k is {self.top_k}; it must be 0 (off) or more")
        if not 0 <= self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}; it must be between 0 and 1")
        if self.max_length < 2:
            raise ValueError(f"max_length is {self.max_length}; it must be 2 (begin and end) or more")


def filter_logits(logits: Float[Tensor, "b v"], top_k: int = 0, top_p: float = 1.0) -> Float[Tensor, "b v"]:
    """Logits with all but the likeliest tokens at minus infinity; see `Sampling` for `top_k` and `top_p`."""
    if top_k > 0:
        least = logits.topk(min(top_k, logits.shape[-1])).values[..., -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if 0 < top_p < 1:
        ordered, order = logits.sort(descending=True)
        shares = ordered.softmax(-1)
        before = shares.cumsum(-1) - shares  # the token that crosses the threshold is still kept
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
    """Token ids from begin to end, rows that end early filled up with -1.

    With one generator per row, row k of a batch equals row k alone; without generators the likeliest token is taken.

    Raises:
        ValueError: another number of generators than rows, or a limit that the decoder has no positions for.
    """
    if generators is not None and len(generators) != len(latent):
        raise ValueError(f"{len(generators)} generators for {len(latent)} latents; one for each is needed")
    if sampling.max_length > decoder.longest:
        raise ValueError(f"max_length is {sampling.max_length}; this decoder writes at most {decoder.longest} tokens")
    state = decoder.start(latent)
    token = torch.full((len(latent),), special.begin, device=latent.device)
    ended = torch.zeros_like(token, dtype=torch.bool)
    written = [token]
    while len(written) < sampling.max_length - 1 and not ended.all():
        logits = decoder.logits(decoder.hidden(token[:, None], state))[:, -1]
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
    """The next token of every row; rows that ended draw nothing."""
    likeliest = logits.argmax(-1)
    if generators is None or sampling.temperature == 0:
        return likeliest
    shares = filter_logits(logits.float() / sampling.temperature, sampling.top_k, sampling.top_p).softmax(-1)
    rows = zip(shares, likeliest, generators, ended.tolist(), strict=True)
    drawn = [
        fallback if over else torch.multinomial(share.to(generator.device), 1, generator=generator)[0]
        for share, fallback, generator, over in rows
    ]
    return torch.stack([token.to(logits.device) for token in drawn])
