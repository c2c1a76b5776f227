"""Context tokens made elsewhere (predicted from brain signals, for one), brought to the scale of an encoder's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from versatile_diffusion.choices import unknown

if TYPE_CHECKING:  # as in flow.py: the command line must not wait for torch
    from jaxtyping import Float
    from torch import Tensor

LEAST = 1e-12


def divide_by_global(tokens: Float[Tensor, "b l d"], reference: Float[Tensor, "n l d"] | None) -> Tensor:
    """All tokens divided by the norm of token 0, the global one, as the paper's image contexts are (section 3.3).

    With a reference, token 0 gets the mean norm that it has there. That is needed for texts, where the official model
    divides by the norm of the pooled token, whose place depends on the text.
    """
    norm = tokens[:, :1].norm(dim=-1, keepdim=True)
    if bool((norm < LEAST).any()):
        raise ValueError("token 0 is zero, so nothing can be divided by its norm; normalise by 'tokens' instead")
    target = 1.0 if reference is None else reference[:, 0].norm(dim=-1).mean().to(tokens)
    return tokens / norm * target


def scale_each_token(tokens: Float[Tensor, "b l d"], reference: Float[Tensor, "n l d"] | None) -> Tensor:
    """Each token scaled to the mean norm that the reference has in its place; zero tokens stay zero."""
    if reference is None:
        raise ValueError("to normalise by 'tokens', give a reference (N, L, D): it says what norm is typical")
    typical = reference.norm(dim=-1, keepdim=True).mean(dim=0).to(tokens)
    return tokens / tokens.norm(dim=-1, keepdim=True).clamp_min(LEAST) * typical


def match_statistics(values: Float[Tensor, "b ..."], reference: Float[Tensor, "n ..."] | None) -> Tensor:
    """Each entry standardised over the batch, then given the mean and standard deviation that it has in the reference.

    It undoes the shrinking of regressions, as in brain decoding (Ozcelik & VanRullen 2023). It serves latents, too.

    Args:
        values: (B, ...) with B of 2 or more.
        reference: (N, ...) of the same form, such as what the regression was trained to predict.

    Raises:
        ValueError: no reference, one of another form, or a batch of one.
    """
    if reference is None:
        raise ValueError("to normalise by 'statistics', give a reference (N, ...): it says what mean and std to have")
    _check_form(values, reference)
    if len(values) < 2:
        raise ValueError("statistics of a batch of 1 say nothing; normalise all predictions together")
    mean, std = values.mean(dim=0), values.std(dim=0, correction=0).clamp_min(LEAST)
    return (values - mean) / std * reference.std(dim=0, correction=0).to(values) + reference.mean(dim=0).to(values)


Normalisation = Callable[["Tensor", "Tensor | None"], "Tensor"]
NORMALISATIONS: dict[str, Normalisation] = {
    "global": divide_by_global,
    "tokens": scale_each_token,
    "statistics": match_statistics,
}
"""Ways to bring context tokens (B, L, D) of any scale to that of an encoder."""


def normalised(
    tokens: Float[Tensor, "*b l d"], how: str | None, reference: Float[Tensor, "n l d"] | None = None
) -> Float[Tensor, "*b l d"]:
    """Context tokens at the scale of an encoder's own.

    Args:
        tokens: (L, D) or (B, L, D) of any scale; arrays are taken, too.
        how: a key of `NORMALISATIONS`, or None to leave them as they are.
        reference: tokens (N, L, D) that the encoder gave for other values.

    Raises:
        ValueError: tokens of another rank or with NaN or infinite entries, an unknown name, or a missing reference.
    """
    tokens = _as_tensor(tokens)
    if tokens.ndim not in (2, 3):
        raise ValueError(f"tokens are (L, D) or (B, L, D), not {tuple(tokens.shape)}")
    if not bool(tokens.isfinite().all()):
        raise ValueError("the tokens have NaN or infinite entries")
    if how is None:
        return tokens
    if how not in NORMALISATIONS:
        raise ValueError(unknown("normalisation", how, NORMALISATIONS))
    batch = tokens if tokens.ndim == 3 else tokens[None]
    if reference is not None:
        reference = _as_tensor(reference)
        _check_form(batch, reference)
    return NORMALISATIONS[how](batch, reference).reshape(tokens.shape)


def _as_tensor(values: Any) -> Tensor:
    """A tensor as it is, an array as a tensor of 32 bits."""
    import torch

    return values if isinstance(values, torch.Tensor) else torch.as_tensor(values, dtype=torch.float32)


def _check_form(values: Tensor, reference: Tensor) -> None:
    if reference.ndim != values.ndim or reference.shape[1:] != values.shape[1:]:
        raise ValueError(f"the reference is {tuple(reference.shape)}; it must be like the values {tuple(values.shape)}")
