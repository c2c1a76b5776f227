"""Ranking of results by similarity to the conditions, with duplicates merged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.modalities.bank import ModalityBank
from versatile_diffusion.pipeline.conditions import GivenCondition


@dataclass(frozen=True)
class Ranked:
    """A ranked result.

    Args:
        value: text or image.
        score: mean cosine similarity to the conditions, weighted, in the shared space of the context encoders.
        items: indices of the output items with this value.
        prompt: index of their prompt.
    """

    value: Any
    score: float
    items: tuple[int, ...]
    prompt: int = 0

    @property
    def count(self) -> int:
        """Number of items with this value."""
        return len(self.items)


def check_comparable(bank: ModalityBank, data: str, given: Sequence[GivenCondition]) -> list[GivenCondition]:
    """Return the conditions that `data` can be compared with: with a value, a weight, and an encoder in the same space.

    Raises:
        ValueError: there are none.
    """
    space = bank.encoders[data].space if data in bank.encoders else None
    found = [c for c in given if c.values is not None and c.condition.weight > 0]
    found = [c for c in found if space is not None and bank.encoders[c.condition.modality].space == space]
    if not found:
        modalities = ", ".join(dict.fromkeys(c.condition.modality for c in given))
        raise ValueError(
            f"rank and candidates cannot compare {data} with these conditions ({modalities}): they need raw values, "
            f"not tokens, and context encoders of this model that share a space"
        )
    return found


@torch.no_grad()
def rank_values(
    bank: ModalityBank, data: str, values: Sequence[Any], given: Sequence[GivenCondition], prompts: int
) -> tuple[Ranked, ...]:
    """Return the values of each prompt, best first.

    Args:
        bank: holds the context encoders.
        data: the modality of the values.
        values: decoded values; those of one prompt are adjacent.
        given: their conditions.
        prompts: number of prompts.
    """
    copies = len(values) // prompts
    scores = agreement(bank, data, values, check_comparable(bank, data, given), prompts)
    groups: dict[tuple[int, Any], list[int]] = {}
    said = MODALITIES[data].said
    for item, value in enumerate(values):
        groups.setdefault((item // copies, item if said is None else said(value)), []).append(item)
    rows = [Ranked(values[i[0]], float(scores[i[0]]), tuple(i), prompt) for (prompt, _), i in groups.items()]
    return tuple(sorted(rows, key=lambda row: (row.prompt, -row.score)))


@torch.no_grad()
def best(
    bank: ModalityBank, data: str, values: Sequence[Any], given: Sequence[GivenCondition], prompts: int, candidates: int
) -> list[int]:
    """Return for each item the index of its best candidate; an item's candidates are adjacent."""
    agreements = agreement(bank, data, values, check_comparable(bank, data, given), prompts)
    scores = agreements.reshape(-1, candidates)
    return [row * candidates + place for row, place in enumerate(scores.argmax(1).tolist())]


def agreement(
    bank: ModalityBank, data: str, values: Sequence[Any], given: Sequence[GivenCondition], prompts: int
) -> Float[Tensor, " b"]:
    """Return the weighted mean cosine similarity of each value to its prompt's conditions."""
    made = bank.encoders[data].compare(values).float()
    total = torch.zeros(len(values), device=made.device)
    for one in given:
        assert one.values is not None  # those without are excluded by `check_comparable`
        wanted = bank.encoders[one.condition.modality].compare(one.values).float().expand(prompts, -1)
        cosines = (made * wanted.repeat_interleave(len(values) // prompts, 0)).sum(-1)
        total = total + one.condition.weight * cosines
    return total / sum(one.condition.weight for one in given)
