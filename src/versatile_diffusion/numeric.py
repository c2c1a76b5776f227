"""Numbers and arrays from users: numpy and torch types count like Python's, and values that are not finite raise an
error."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from versatile_diffusion.printable import shown

if TYPE_CHECKING:  # the command line must not import torch
    from jaxtyping import Float
    from torch import Tensor, nn

LEAST_NORM = 1e-12
"""Minimum norm to divide by, so that zero vectors stay zero."""


def plain(value: Any) -> Any:
    """Convert a numpy or torch scalar to a Python object; return other values unchanged."""
    return value.item() if getattr(value, "ndim", None) == 0 and hasattr(value, "item") else value


def number(name: str, value: Any, least: float = 0, most: float = math.inf, *, whole: bool = False) -> Any:
    """Check a number and return it as a Python int or float.

    Args:
        name: name for messages.
        value: int, float, or numpy or torch scalar.
        least, most: inclusive range.
        whole: whether it must be an integer (or a float without fraction).

    Raises:
        ValueError: not a number, not finite, or out of range.
    """
    given = plain(value)
    kind = "a whole number" if whole else "a number"
    if not is_number(given) or not least <= given <= most or (whole and given != int(given)):
        upper = f" to {_format_bound(most)}" if math.isfinite(most) else " up"
        aside = ", not True or False" if isinstance(given, bool) else ""
        raise ValueError(f"{name} is {shown(given)}; it must be {kind} from {_format_bound(least)}{upper}{aside}")
    return int(given) if whole else given


def _format_bound(bound: float) -> str:
    return f"{bound:g}" if bound != int(bound) or abs(bound) < 10**5 else f"{int(bound):,}"


def is_number(given: Any) -> bool:
    """Return whether a plain value is a finite number that a float can represent; booleans are not."""
    return isinstance(given, int | float) and not isinstance(given, bool) and abs(given) <= sys.float_info.max


def switch(name: str, value: Any) -> bool:
    """Check a boolean, also as a numpy or torch scalar; ValueError otherwise."""
    given = plain(value)
    if not isinstance(given, bool) and not (is_number(given) and given in (0, 1)):
        raise ValueError(f"{name} is {shown(value)}; it must be True or False")
    return bool(given)


def sequence(given: Any) -> list[Any] | None:
    """Return the items of a list, tuple, range or array; None for anything else (a set has no order, a dict has more
    than keys, and a generator can be read only once)."""
    if getattr(given, "ndim", 0) > 0 and hasattr(given, "tolist"):
        return list(given)
    return list(given) if isinstance(given, Sequence) and not isinstance(given, str | bytes | bytearray) else None


def settle(value: Any, **fields: Any) -> None:
    """Set fields of a frozen dataclass during initialisation, with scalars converted to plain numbers."""
    for name, one in fields.items():
        object.__setattr__(value, name, one)


def as_tensor(values: Any, what: str = "the array") -> Tensor:
    """Convert to a tensor: a float tensor is returned as is; an integer or 8-bit float tensor, an array, or a list of
    arrays or tensors becomes a new float32 tensor.

    Raises:
        ValueError: no real numbers, or rows of different lengths.
    """
    import numpy as np
    import torch

    if isinstance(values, torch.Tensor):
        if values.is_complex():
            raise ValueError(f"{what} must hold real numbers; this tensor is of {values.dtype}")
        return values if values.is_floating_point() and values.dtype.itemsize > 1 else values.float()
    if isinstance(values, list | tuple) and any(isinstance(one, torch.Tensor) for one in values):
        parts = [as_tensor(one, what) for one in values]
        if len({part.shape for part in parts}) > 1:
            raise ValueError(f"{what} have several shapes: {', '.join(str(tuple(part.shape)) for part in parts)}")
        return torch.stack(parts)
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(f"{what} cannot be read as an array of numbers ({error})") from error
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{what} must be an array of numbers; this one is of {array.dtype}")
    with np.errstate(over="ignore"):  # overflow becomes infinite, and is reported where it is used
        return torch.tensor(array.astype(np.float32))


def widen(x: Tensor) -> Tensor:
    """Convert to at least float32: half precision has no small epsilon, and squares overflow in it."""
    return x.float() if x.is_floating_point() and x.dtype.itemsize < 4 else x


def unit(x: Float[Tensor, "..."], dim: int = -1) -> Float[Tensor, "..."]:
    """Normalise vectors along an axis; zero vectors stay zero, in every dtype."""
    wide = widen(x)
    norm: Tensor = wide.norm(dim=dim, keepdim=True)
    return (wide / norm.clamp_min(LEAST_NORM)).to(x.dtype)


def check_finite(values: Tensor, what: str, maker: nn.Module | None = None) -> Tensor:
    """Return the values if all are finite.

    Args:
        values: any tensor.
        what: description for messages, in the plural, with the stage.
        maker: module that computed them; if its weights are not finite, the message names the first.

    Raises:
        ValueError: NaN or infinite values.
    """
    if values.is_meta or bool((right := values.isfinite()).all()):
        return values
    count = f"{int((~right).sum()):,} of {right.numel():,}"
    raise ValueError(f"{what} are not finite: {count} values are NaN or infinite{_reason(maker)}")


def _reason(maker: nn.Module | None) -> str:
    """Explain why a network returned values that are not finite."""
    for name, weight in () if maker is None else maker.state_dict().items():
        if not weight.is_meta and weight.dtype.itemsize > 1 and not bool(weight.isfinite().all()):
            return f"; so is the weight {name} of {type(maker).__name__}"
    first = None if maker is None else next(maker.parameters(), None)
    if first is not None and first.dtype.itemsize < 4:
        kind = str(first.dtype).removeprefix("torch.")
        return f"; they were computed in {kind}, so load the model in bfloat16 or float32" if "bf" not in kind else ""
    return ""
