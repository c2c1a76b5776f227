"""Normalisation of external context tokens (e.g. predicted from brain signals) to an encoder's scale."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from versatile_diffusion.choices import chosen
from versatile_diffusion.numeric import LEAST_NORM, as_tensor, check_finite, widen
from versatile_diffusion.printable import shown

if TYPE_CHECKING:  # as in flow.py: the command line must not import torch
    from jaxtyping import Float
    from torch import Tensor


def divide_by_global(tokens: Float[Tensor, "b l d"], reference: Float[Tensor, "n l d"] | None) -> Tensor:
    """Divide all tokens by the norm of the global token 0, as for the paper's image contexts (section 3.3).

    With a reference, token 0 gets its mean norm in the reference. Texts need it, since the official model divides by
    the norm of the pooled token, whose position depends on the text.
    """
    norm: Tensor = tokens[:, :1].norm(dim=-1, keepdim=True)
    if bool((norm < LEAST_NORM).any()):
        raise ValueError("token 0 is zero, so tokens cannot be divided by its norm; normalise by 'tokens' instead")
    target = 1.0 if reference is None else reference[:, 0].norm(dim=-1).mean().to(tokens)
    return tokens / norm * target


def scale_each_token(tokens: Float[Tensor, "b l d"], reference: Float[Tensor, "n l d"] | None) -> Tensor:
    """Scale each token to its mean norm in the reference; zero tokens stay zero."""
    if reference is None:
        raise ValueError("to normalise by 'tokens', give a reference (N, L, D) with the target norms")
    typical: Tensor = reference.norm(dim=-1, keepdim=True).mean(dim=0).to(tokens)
    norm: Tensor = tokens.norm(dim=-1, keepdim=True)
    return tokens / norm.clamp_min(LEAST_NORM) * typical


def match_statistics(values: Float[Tensor, "b ..."], reference: Float[Tensor, "n ..."] | None) -> Tensor:
    """Match each entry's mean and standard deviation over the batch to the reference.

    This undoes the shrinkage of regression, e.g. in brain decoding (Ozcelik & VanRullen 2023). Also applies to latents.

    Args:
        values: (B, ...) with B at least 2.
        reference: (N, ...) of the same shape, e.g. the regression's training targets.

    Raises:
        ValueError: a missing reference, one of another shape, or a batch of one.
    """
    if reference is None:
        raise ValueError("to normalise by 'statistics', give a reference (N, ...) with the target mean and std")
    _check_form(values, reference)
    if len(values) < 2:
        raise ValueError("statistics need a batch of at least 2; normalise all predictions together")
    mean, std = values.mean(dim=0), values.std(dim=0, correction=0).clamp_min(LEAST_NORM)
    return (values - mean) / std * reference.std(dim=0, correction=0).to(values) + reference.mean(dim=0).to(values)


Normalisation = Callable[["Tensor", "Tensor | None"], "Tensor"]
NORMALISATIONS: dict[str, Normalisation] = {
    "global": divide_by_global,
    "tokens": scale_each_token,
    "statistics": match_statistics,
}
"""Normalisations of context tokens (B, L, D) to an encoder's scale."""


def normalise_tokens(
    tokens: Float[Tensor, "*b l d"], how: str | None, reference: Float[Tensor, "n l d"] | None = None
) -> Float[Tensor, "*b l d"]:
    """Normalise context tokens to an encoder's scale.

    Args:
        tokens: (L, D) or (B, L, D) at any scale; arrays are accepted.
        how: key of `NORMALISATIONS`, or None to leave them unchanged.
        reference: tokens (N, L, D) of the encoder for other values.

    Raises:
        ValueError: a wrong rank, NaN or infinite tokens, an unknown name, or a missing reference.
    """
    tokens = as_tensor(tokens, "tokens")
    if tokens.ndim not in (2, 3):
        raise ValueError(f"tokens are {tuple(tokens.shape)}; they must be (L, D) or (B, L, D)")
    check_finite(tokens, "the tokens")
    if how is None:
        return tokens
    chosen("normalisation", how, NORMALISATIONS)
    batch = widen(tokens if tokens.ndim == 3 else tokens[None])
    if reference is not None:
        reference = widen(check_finite(as_tensor(reference, "the reference"), "the tokens of the reference"))
        _check_form(batch, reference)
    found = NORMALISATIONS[how](batch, reference).reshape(tokens.shape).to(tokens.dtype)
    return check_finite(found, f"the tokens normalised by {shown(how)} in {tokens.dtype}")


def _check_form(values: Tensor, reference: Tensor) -> None:
    if reference.ndim != values.ndim or reference.shape[1:] != values.shape[1:]:
        raise ValueError(
            f"the reference is {tuple(reference.shape)}; it must have the values' shape {tuple(values.shape)}"
        )
