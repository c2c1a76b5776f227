"""What was made, ranked by how well it agrees with the conditions, with duplicates merged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from versatile_diffusion.modalities.bank import ModalityBank
from versatile_diffusion.sampling.conditions import GivenCondition


@dataclass(frozen=True)
class Ranked:
    """One of the things that were made.

    Args:
        value: the text (or picture).
        score: mean cosine to the conditions, by their weights, in the space that the model's context encoders share.
        items: which items of the output it is; several where they say the same.
        prompt: number of the prompt that they belong to.
    """

    value: Any
    score: float
    items: tuple[int, ...]
    prompt: int = 0

    @property
    def count(self) -> int:
        """How many items say the same."""
        return len(self.items)


def check_comparable(bank: ModalityBank, data: str, given: Sequence[GivenCondition]) -> list[GivenCondition]:
    """The conditions with which `data` can be compared: those with a value, a weight, and an encoder in the same space.

    Raises:
        ValueError: there is none.
    """
    space = bank.encoders[data].space if data in bank.encoders else None
    found = [c for c in given if c.values is not None and c.condition.weight > 0]
    found = [c for c in found if space is not None and bank.encoders[c.condition.modality].space == space]
    if not found:
        modalities = ", ".join(dict.fromkeys(c.condition.modality for c in given))
        raise ValueError(
            f"rank, candidates: a {data} cannot be compared with these conditions ({modalities}): it takes values, not "
            f"tokens, and context encoders of this model that share a space"
        )
    return found


@torch.no_grad()
def ranked(
    bank: ModalityBank, data: str, values: Sequence[Any], given: Sequence[GivenCondition], prompts: int
) -> tuple[Ranked, ...]:
    """The values of each prompt, best first.

    Args:
        bank: holds the context encoders.
        data: the modality of the values.
        values: decoded, those of one prompt next to each other.
        given: the conditions that they were made from.
        prompts: number of prompts.
    """
    copies = len(values) // prompts
    scores = agreement(bank, data, values, check_comparable(bank, data, given), prompts)
    groups: dict[tuple[int, Any], list[int]] = {}
    for item, value in enumerate(values):
        groups.setdefault((item // copies, _said(value, item)), []).append(item)
    rows = [Ranked(values[i[0]], float(scores[i[0]]), tuple(i), prompt) for (prompt, _), i in groups.items()]
    return tuple(sorted(rows, key=lambda row: (row.prompt, -row.score)))


@torch.no_grad()
def best(
    bank: ModalityBank, data: str, values: Sequence[Any], given: Sequence[GivenCondition], prompts: int, candidates: int
) -> list[int]:
    """For each item, which of the values, its candidates next to each other, agrees best with its conditions."""
    scores = agreement(bank, data, values, check_comparable(bank, data, given), prompts).unflatten(0, (-1, candidates))
    return [row * candidates + place for row, place in enumerate(scores.argmax(1).tolist())]


def agreement(
    bank: ModalityBank, data: str, values: Sequence[Any], given: Sequence[GivenCondition], prompts: int
) -> Float[Tensor, " b"]:
    """Mean cosine of each value to the conditions of its prompt, by their weights."""
    made = bank.encoders[data].compare(values).float()
    total = torch.zeros(len(values), device=made.device)
    for one in given:
        assert one.values is not None  # those without are left out by `check_comparable`
        wanted = bank.encoders[one.condition.modality].compare(one.values).float().expand(prompts, -1)
        cosines = (made * wanted.repeat_interleave(len(values) // prompts, 0)).sum(-1)
        total = total + one.condition.weight * cosines
    return total / sum(one.condition.weight for one in given)


def _said(value: Any, item: int) -> Any:
    """What two items have in common if they say the same: texts, whatever their case and spaces."""
    return " ".join(value.lower().split()) if isinstance(value, str) else item
