"""Conditions: checking, encoding to tokens, and null contexts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from typing import Any

import numpy as np
import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor

from versatile_diffusion.choices import chosen
from versatile_diffusion.diffuser.context import Context
from versatile_diffusion.flow import Condition
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.modalities.bank import ModalityBank
from versatile_diffusion.records.record import record_of
from versatile_diffusion.sampling.fast import WHOLE
from versatile_diffusion.sampling.focus import apply_focus, as_focus, focus_null
from versatile_diffusion.sampling.rules import Guide

ZEROS = "zeros"


@dataclass(frozen=True)
class GivenCondition:
    """A checked condition.

    Args:
        condition: as given.
        values: raw values, one or one per prompt; None if tokens are given.
        masks: one per value, in 0..1; None for whole values.
        negatives: negative raw values, one or one per prompt; None if absent, or if tokens are given.
    """

    condition: Condition
    values: tuple[Any, ...] | None
    masks: tuple[Any, ...] | None = None
    negatives: tuple[Any, ...] | None = None

    @classmethod
    def check(cls, condition: Condition) -> GivenCondition:
        """Check a condition's values with their modality.

        Raises:
            ValueError: an unknown modality, an invalid value, mask, negative or focus, or tokens that are not (L, D) or
                (B, L, D).
        """
        modality = condition.modality
        chosen("modality", modality, MODALITIES)
        if condition.focus is not None:
            as_focus(condition.focus)
        negatives = None
        if isinstance(condition.negative, Tensor):
            _check_tokens(condition.negative, f"negative tokens of a {modality} condition")
        elif condition.negative is not None:
            negatives = _check_values(
                modality, condition.negative, f"a {modality} condition has an empty list of negatives"
            )
        if condition.tokens is not None:
            _check_tokens(condition.tokens, "tokens")
            if condition.mask is not None:
                raise ValueError(f"a mask needs a raw value, but this {modality} condition has tokens")
            return cls(condition, None, None, negatives)
        values = _check_values(modality, condition.value, f"a {modality} condition has an empty list of values")
        return cls(condition, values, _checked_masks(condition, values), negatives)

    @property
    def tokens(self) -> Tensor | None:
        """Return tokens (B, L, D), if given."""
        tokens = self.condition.tokens
        return None if tokens is None else _batch(tokens)

    @property
    def counts(self) -> list[int]:
        """Return the number of prompts that values and negatives are given for."""
        given = self.tokens if self.values is None else self.values
        assert given is not None  # a condition has either values or tokens
        negative = self.condition.negative
        negatives = _batch(negative) if isinstance(negative, Tensor) else self.negatives
        return [len(given)] + ([] if negatives is None else [len(negatives)])

    def record(self) -> dict[str, Any]:
        """Plain JSON: text as is, other values by content hash. Regions are recorded elsewhere."""
        condition = self.condition
        negative, focus = condition.negative, condition.focus
        numbers = MODALITIES[condition.modality].numbers
        parts: dict[str, Any] = {
            "mask": None if self.masks is None else _records(condition.mask, self.masks, np.asarray),
            "negative": {"tokens": record_of(None, negative)} if isinstance(negative, Tensor) else None,
            "focus": asdict(focus) if is_dataclass(focus) else focus,
        }
        if self.negatives is not None:
            parts["negative"] = {"values": _records(negative, self.negatives, numbers)}
        if self.values is None:
            content = {"tokens": record_of(None, condition.tokens)}
        else:
            content = {"values": _records(condition.value, self.values, numbers)}
        plain = {name: getattr(condition, name) for name in ("weight", "guidance_scale", "start", "end")}
        given = {name: part for name, part in parts.items() if part is not None}
        return {"modality": condition.modality, **content, **plain, **given}


def _check_values(modality: str, value: Any, empty: str) -> tuple[Any, ...]:
    if not (values := as_items(value)):
        raise ValueError(empty)
    return tuple(MODALITIES[modality].check(one) for one in values)


def _checked_masks(condition: Condition, values: Sequence[Any]) -> tuple[Any, ...] | None:
    if condition.mask is None:
        return None
    check = MODALITIES[condition.modality].check_mask
    if check is None:
        raise ValueError(f"a {condition.modality} condition does not support masks")
    masks = as_items(condition.mask)
    masks = masks if isinstance(condition.mask, list | tuple) else masks * len(values)
    if len(masks) != len(values):
        raise ValueError(f"{len(masks)} masks for {len(values)} values; give one for all, or one per value")
    return tuple(None if mask is None else check(mask, value) for mask, value in zip(masks, values, strict=True))


def _check_tokens(tokens: Tensor, what: str) -> None:
    if tokens.ndim not in (2, 3):
        raise ValueError(f"{what} are {tuple(tokens.shape)}; they must be (L, D) or (B, L, D)")
    if 0 in tokens.shape:
        raise ValueError(f"{what} are {tuple(tokens.shape)}, which is empty; at least one token is required")


def _acts_in_part(condition: Condition) -> bool:
    """Return whether it applies only to some steps or regions."""
    return condition.region is not None or (condition.start, condition.end) != WHOLE


def _batch(tokens: Tensor) -> Tensor:
    return tokens[None] if tokens.ndim == 2 else tokens


def _records(given: Any, checked: Sequence[Any], numbers: Callable[[Any], Any]) -> list[Any]:
    places = as_items(given) * (1 if isinstance(given, list | tuple) else len(checked))
    return [record_of(one, raw, numbers) for one, raw in zip(places, checked, strict=True)]


def as_items(value: Any) -> list[Any]:
    """Return a list of values; a single value becomes a list of one."""
    return list(value) if isinstance(value, list | tuple) else [value]


def texts_of(given: Sequence[GivenCondition], prompts: int) -> list[str | None]:
    """Return the joined plain-text conditions of each prompt; None if it has none."""
    plain = [c.values for c in given if c.values and MODALITIES[c.condition.modality].plain]
    return ["; ".join(values[k % len(values)] for values in plain) or None for k in range(prompts)]


def with_phrase(given: Sequence[GivenCondition], phrase: str) -> list[GivenCondition]:
    """Append a style phrase to values of modalities that support styles."""
    return [
        replace(c, values=tuple(f"{value}, {phrase}" for value in c.values)) if c.values and takes_style(c) else c
        for c in given
    ]


def takes_style(given: GivenCondition) -> bool:
    """Return whether a style phrase can be added to a condition's values."""
    return "style" in MODALITIES[given.condition.modality].context_options


@dataclass(frozen=True)
class Encoding:
    """Encodes the conditions of a run to tokens.

    Args:
        bank: holds the context encoders.
        prompts: number of prompts; a single value or token sequence applies to all.
        copies: items per prompt; items of one prompt are adjacent.
        device, dtype: of the tokens.
    """

    bank: ModalityBank
    prompts: int
    copies: int
    device: torch.device
    dtype: torch.dtype

    def guide(
        self,
        given: GivenCondition,
        null: str,
        negative: Sequence[str] | None = None,
        region: Float[Tensor, "rows columns"] | None = None,
    ) -> Guide:
        """Return the tokens (B, L, D) of a condition and of its null context, with its controls.

        Args:
            given: the condition. Its own negative takes precedence.
            null: `"zeros"`, or one of the modality's blanks.
            negative: negative prompts instead of the blank, one or one per prompt.
            region: where it applies on the latent grid.
        """
        condition, stream = given.condition, given.condition.modality
        tokens = given.tokens if given.values is None else self._encode(stream, given.values, given.masks)
        assert tokens is not None  # a condition has either values or tokens
        blank = torch.zeros_like(tokens) if null == ZEROS else None
        if isinstance(condition.negative, Tensor):
            away = _batch(condition.negative)
        elif values := given.negatives or negative:
            away = self._encode(stream, values)
        else:
            away = None
        if blank is None and (away is None or _acts_in_part(condition)):
            blank = self._encode(stream, [MODALITIES[stream].blanks[null]])
        if condition.focus is not None:
            tokens = apply_focus(tokens, condition.focus)
            away, blank = (None if one is None else focus_null(one, condition.focus) for one in (away, blank))
        region = None if region is None else region.to(self.device)
        context = Context(stream, self._spread(tokens), condition.weight, region)
        rest = None if blank is None else self._spread(blank)
        null_tokens = rest if away is None else self._spread(away)
        assert null_tokens is not None
        return Guide(context, null_tokens, condition.guidance_scale, condition.start, condition.end, rest)

    def _encode(self, stream: str, values: Sequence[Any], masks: Sequence[Any] | None = None) -> Float[Tensor, "n l d"]:
        tokens: Tensor = self.bank.encoders[stream].encode(values, masks)
        return tokens

    def _spread(self, tokens: Float[Tensor, "n l d"]) -> Float[Tensor, "b l d"]:
        tokens = tokens.to(self.device, self.dtype).expand(self.prompts, -1, -1)
        return repeat(tokens, "n l d -> (n copies) l d", copies=self.copies)
