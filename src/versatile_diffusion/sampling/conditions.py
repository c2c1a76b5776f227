"""Conditions checked, put into tokens, and given their null contexts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, is_dataclass, replace
from typing import Any

import torch
from einops import repeat
from jaxtyping import Float
from torch import Tensor

from versatile_diffusion.choices import unknown
from versatile_diffusion.diffuser.context import Context
from versatile_diffusion.flow import Condition
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.modalities.bank import ModalityBank
from versatile_diffusion.sampling.focus import apply_focus, as_focus, focus_null
from versatile_diffusion.sampling.guidance import WHOLE, Guide
from versatile_diffusion.sampling.output import record_of

ZEROS = "zeros"


@dataclass(frozen=True)
class GivenCondition:
    """A condition whose values have been checked.

    Args:
        condition: as given.
        values: raw values, one or one per prompt; None where tokens are given.
        masks: of the values, one each, as numbers 0..1; None for the whole of a value.
        negatives: raw values to keep away from, one or one per prompt; None where there is none, or tokens are given.
    """

    condition: Condition
    values: tuple[Any, ...] | None
    masks: tuple[Any, ...] | None = None
    negatives: tuple[Any, ...] | None = None

    @classmethod
    def check(cls, condition: Condition) -> GivenCondition:
        """Checks the values with their modality.

        Raises:
            ValueError: no such modality, a bad value, mask or negative, a focus that does not exist, or tokens that are
                not (L, D) or (B, L, D).
        """
        modality = condition.modality
        if modality not in MODALITIES:
            raise ValueError(unknown("modality", modality, MODALITIES))
        if condition.focus is not None:
            as_focus(condition.focus)
        negatives = None
        if isinstance(condition.negative, Tensor):
            _check_tokens(condition.negative, f"negative tokens of a {modality} condition")
        elif condition.negative is not None:
            negatives = _checked(modality, condition.negative, f"a {modality} condition has an empty list of negatives")
        if condition.tokens is not None:
            _check_tokens(condition.tokens, "tokens")
            if condition.mask is not None:
                raise ValueError(f"a mask applies to a value, and this {modality} condition has tokens in its place")
            return cls(condition, None, None, negatives)
        values = _checked(modality, condition.value, f"a {modality} condition has an empty list of values")
        return cls(condition, values, _checked_masks(condition, values), negatives)

    @property
    def tokens(self) -> Tensor | None:
        """(B, L, D), where they were given."""
        tokens = self.condition.tokens
        return None if tokens is None else _batch(tokens)

    @property
    def counts(self) -> list[int]:
        """For how many prompts it has values, and negatives."""
        given = self.tokens if self.values is None else self.values
        assert given is not None  # a condition has either values or tokens
        negative = self.condition.negative
        negatives = _batch(negative) if isinstance(negative, Tensor) else self.negatives
        return [len(given)] + ([] if negatives is None else [len(negatives)])

    def record(self) -> dict[str, Any]:
        """Plain JSON; texts as they are, other values by a hash of their content. A region is recorded elsewhere."""
        condition = self.condition
        negative, focus = condition.negative, condition.focus
        parts: dict[str, Any] = {
            "mask": None if self.masks is None else _records(condition.mask, self.masks),
            "negative": {"tokens": record_of(None, negative)} if isinstance(negative, Tensor) else None,
            "focus": asdict(focus) if is_dataclass(focus) else focus,
        }
        if self.negatives is not None:
            parts["negative"] = {"values": _records(negative, self.negatives)}
        if self.values is None:
            content = {"tokens": record_of(None, condition.tokens)}
        else:
            content = {"values": _records(condition.value, self.values)}
        plain = {name: getattr(condition, name) for name in ("weight", "guidance_scale", "start", "end")}
        given = {name: part for name, part in parts.items() if part is not None}
        return {"modality": condition.modality, **content, **plain, **given}


def _checked(modality: str, value: Any, empty: str) -> tuple[Any, ...]:
    if not (values := listed(value)):
        raise ValueError(empty)
    return tuple(MODALITIES[modality].check(one) for one in values)


def _checked_masks(condition: Condition, values: Sequence[Any]) -> tuple[Any, ...] | None:
    if condition.mask is None:
        return None
    check = MODALITIES[condition.modality].check_mask
    if check is None:
        raise ValueError(f"a {condition.modality} condition takes no mask")
    masks = listed(condition.mask)
    masks = masks if isinstance(condition.mask, list | tuple) else masks * len(values)
    if len(masks) != len(values):
        raise ValueError(f"{len(masks)} masks for {len(values)} values; give one for all, or one each")
    return tuple(None if mask is None else check(mask, value) for mask, value in zip(masks, values, strict=True))


def _check_tokens(tokens: Tensor, what: str) -> None:
    if tokens.ndim not in (2, 3):
        raise ValueError(f"{what} are (L, D) or (B, L, D), not {tuple(tokens.shape)}")
    if 0 in tokens.shape:
        raise ValueError(f"{what} are {tuple(tokens.shape)}, so there are none; at least one token must guide")


def _acts_in_part(condition: Condition) -> bool:
    """Whether there are steps or places at which it does not act."""
    return condition.region is not None or (condition.start, condition.end) != WHOLE


def _batch(tokens: Tensor) -> Tensor:
    return tokens[None] if tokens.ndim == 2 else tokens


def _records(given: Any, checked: Sequence[Any]) -> list[Any]:
    places = listed(given) * (1 if isinstance(given, list | tuple) else len(checked))
    return [record_of(one, raw) for one, raw in zip(places, checked, strict=True)]


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

    def guide(
        self,
        given: GivenCondition,
        null: str,
        negative: Sequence[str] | None = None,
        region: Float[Tensor, "rows columns"] | None = None,
    ) -> Guide:
        """Tokens (B, L, D) of a condition and of its null context, and how it acts.

        Args:
            given: the condition. Its own negative goes before all else.
            null: `"zeros"`, or the name of one of the modality's blanks.
            negative: texts in place of the blank, one or one per prompt.
            region: where it acts on the grid of the latents.
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
        return self.bank.encoders[stream].encode(values, masks)

    def _spread(self, tokens: Float[Tensor, "n l d"]) -> Float[Tensor, "b l d"]:
        tokens = tokens.to(self.device, self.dtype).expand(self.prompts, -1, -1)
        return repeat(tokens, "n l d -> (n copies) l d", copies=self.copies)
