"""Conditions checked, put into tokens, and given their null contexts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor

from versatile_diffusion.diffuser.context import Context
from versatile_diffusion.flow import Condition
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.modalities.bank import ModalityBank
from versatile_diffusion.sampling.guidance import Guide
from versatile_diffusion.sampling.output import record_of

ZEROS = "zeros"


@dataclass(frozen=True)
class GivenCondition:
    """A condition whose values have been checked.

    Args:
        condition: as given.
        values: raw values, one or one per prompt; None where tokens are given.
    """

    condition: Condition
    values: tuple[Any, ...] | None

    @classmethod
    def check(cls, condition: Condition) -> GivenCondition:
        """Checks the values with their modality.

        Raises:
            ValueError: no such modality, a bad value, or tokens that are not (L, D) or (B, L, D).
        """
        if condition.modality not in MODALITIES:
            raise ValueError(f"unknown modality {condition.modality!r}; allowed: {', '.join(MODALITIES)}")
        if condition.tokens is not None:
            if condition.tokens.ndim not in (2, 3):
                raise ValueError(f"tokens are (L, D) or (B, L, D), not {tuple(condition.tokens.shape)}")
            return cls(condition, None)
        values = listed(condition.value)
        if not values:
            raise ValueError(f"a {condition.modality} condition has an empty list of values")
        return cls(condition, tuple(MODALITIES[condition.modality].check(value) for value in values))

    @property
    def tokens(self) -> Tensor | None:
        """(B, L, D), where they were given."""
        tokens = self.condition.tokens
        return tokens[None] if tokens is not None and tokens.ndim == 2 else tokens

    @property
    def count(self) -> int:
        """How many prompts it has values for."""
        given = self.tokens if self.values is None else self.values
        assert given is not None
        return len(given)

    def record(self) -> dict[str, Any]:
        """Plain JSON; texts as they are, other values by a hash of their content."""
        condition, mask = self.condition, self.condition.mask
        if self.values is None:
            content = {"tokens": record_of(None, condition.tokens)}
        else:
            pairs = zip(listed(condition.value), self.values, strict=True)
            content = {"values": [record_of(given, raw) for given, raw in pairs]}
        masks = {} if mask is None else {"masks": [record_of(one, one) for one in listed(mask)]}
        return {"modality": condition.modality, **content, "weight": condition.weight, **masks}


def listed(value: Any) -> list[Any]:
    """A list of values, or one value as a list of one."""
    return list(value) if isinstance(value, list | tuple) else [value]


def texts_of(given: Sequence[GivenCondition], prompts: int) -> list[str | None]:
    """Per prompt, the texts among its conditions, joined; None where there is none."""
    rows = [[c.values[k % len(c.values)] for c in given if c.values] for k in range(prompts)]
    return ["; ".join(texts) or None for row in rows for texts in [[v for v in row if isinstance(v, str)]]]


def with_phrase(given: Sequence[GivenCondition], phrase: str) -> list[GivenCondition]:
    """The conditions with a phrase added to each text."""
    return [replace(c, values=c.values and tuple(_joined(value, phrase) for value in c.values)) for c in given]


def _joined(value: Any, phrase: str) -> Any:
    return f"{value}, {phrase}" if isinstance(value, str) else value


@dataclass(frozen=True)
class Encoding:
    """How conditions become tokens of one run.

    Args:
        bank: holds the context encoders.
        prompts: number of prompts; a single value or token sequence serves all of them.
        copies: items per prompt; those of one prompt follow each other.
        device, dtype: of the tokens.
    """

    bank: ModalityBank
    prompts: int
    copies: int
    device: torch.device
    dtype: torch.dtype

    def guide(self, given: GivenCondition, null: str, negative: Sequence[str] | None = None) -> Guide:
        """Tokens (B, L, D) of a condition and of its null context.

        Args:
            given: the condition.
            null: `"zeros"`, or the name of one of the modality's blanks.
            negative: texts in place of the blank, one or one per prompt.
        """
        condition, stream = given.condition, given.condition.modality
        tokens = given.tokens if given.values is None else self._encode(stream, given.values, condition.mask)
        assert tokens is not None  # a condition has either values or tokens
        tokens = self._spread(tokens)
        if null == ZEROS:
            blank = torch.zeros_like(tokens)
        else:
            blank = self._spread(self._encode(stream, negative or [MODALITIES[stream].blanks[null]]))
        return Guide(Context(stream, tokens, condition.weight), blank)

    def _encode(self, stream: str, values: Sequence[Any], mask: Any = None) -> Float[Tensor, "n l d"]:
        masks = None if mask is None else [*listed(mask)] * (1 if isinstance(mask, list | tuple) else len(values))
        return self.bank.encoders[stream].encode(values, masks)

    def _spread(self, tokens: Float[Tensor, "n l d"]) -> Float[Tensor, "b l d"]:
        tokens = tokens.to(self.device, self.dtype).expand(self.prompts, -1, -1)
        return repeat(tokens, "n l d -> (n copies) l d", copies=self.copies)
