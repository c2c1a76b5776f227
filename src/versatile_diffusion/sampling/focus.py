"""What becomes of context tokens before they guide: focus on semantics or on style, and joining several into one.

Disentanglement (the paper's figure 9): the global token is left alone, the local tokens are taken apart into
principal components. The strongest ones hold style, the weaker ones what is shown. All here is exact linear algebra on
tokens: no random state, and no item of a batch depends on another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from versatile_diffusion.choices import unknown

OVER_CHANNELS, OVER_TOKENS = -1, -2


@dataclass(frozen=True)
class Weights:
    """Factors on the principal components of the local tokens.

    Args:
        leading: of the strongest component, the next, and so on.
        beyond: of all that follow.
    """

    leading: tuple[float, ...]
    beyond: float = 0.0


@dataclass(frozen=True)
class Convention:
    """One way to take tokens apart.

    Args:
        levels: the least and the greatest level.
        neutral: the level that changes nothing.
        components: how many of the strongest components it tells apart.
        weights: `(level, components) -> Weights`; ValueError for a level between those that it knows.
        centre: the axis whose mean is taken out first and put back at the end: `OVER_CHANNELS`, a mean for each
            token, or `OVER_TOKENS`, a mean for each channel.
        keeps_spread: whether the standard deviation over all local tokens and channels is brought back.
        on_null: whether the null context is treated likewise.
        help: one line for people.
    """

    levels: tuple[float, float]
    neutral: float
    components: int
    weights: Callable[[float, int], Weights]
    centre: int = OVER_CHANNELS
    keeps_spread: bool = False
    on_null: bool = False
    help: str = ""


def by_level(level: float, components: int) -> Weights:
    """The five levels of figure 9: -2 and -1 leave out the strongest 2 or 1 of the first components, so what is shown
    counts; 1 and 2 keep the strongest 10 or 2 alone, so style counts."""
    kept = {-2: (2, components), -1: (1, components), 0: (0, components), 1: (0, 10), 2: (0, 2)}
    if level not in kept:
        raise ValueError(f"focus level is {level}; this convention has the levels {', '.join(map(str, kept))}")
    first, end = kept[int(level)]
    return Weights((0.0,) * first + (1.0,) * (min(end, components) - first))


def by_dial(level: float, components: int, semantics: int = 1, style: int = 5) -> Weights:
    """The dial of the 2023 app, from 0 (what is shown) over 0.5 (as it is) to 1 (style).

    Below 0.5 the strongest `semantics + 1` components fade, the first of them first, and all others stay. Above it
    those after the strongest `style` fade, the last of them first, and what is beyond `components` is left out.
    """
    if level < 0.5:
        faded = (1 - math.exp(2 * level - 1)) / (1 - math.exp(-1))
        fading = tuple(max(0.0, 1 - faded * (semantics + 1 - i)) for i in range(min(semantics + 1, components)))
        return Weights(fading + (1.0,) * (components - len(fading)), beyond=1.0)
    if components <= style:
        return Weights((1.0,) * components)
    faded = (math.exp(2 * level - 1) - 1) / (math.e - 1)
    slope = faded * (components - style + 1) / (components - style)
    return Weights((1.0,) * style + tuple(max(0.0, 1 - slope * i) for i in range(1, components - style + 1)))


_PAPER = Convention(
    (-2, 2), 0, 50, by_level, on_null=True, help="The paper's levels -2 to 2, with each token centred as in 2022."
)
CONVENTIONS: Mapping[str, Convention] = {
    "paper": _PAPER,
    "2022": _PAPER,
    "2023": Convention((0, 1), 0.5, 20, by_dial, keeps_spread=True, help="The dial 0 to 1 of the 2023 app."),
    "pca": Convention((-2, 2), 0, 50, by_level, OVER_TOKENS, help="The paper's levels on plain PCA over the tokens."),
}
"""Ways to take tokens apart, by name."""


@dataclass(frozen=True)
class Focus:
    """How much the semantics or the style of a condition counts.

    Args:
        level: lower than neutral for what is shown, higher for style; its range is the convention's.
        convention: a key of `CONVENTIONS`.
        components: how many components are told apart, the convention's own where left out (50, as later ones have
            little effect; 20 in 2023). Levels that keep what is beyond them, or drop it, follow this number.
        drop_global: leave token 0 out altogether, "for art".
        on_null: whether the null context is treated likewise; as the convention does where left out. It loses its
            token 0 in any case where `drop_global` says so.

    Raises:
        ValueError: no such convention, or a level that it has not.
    """

    level: float
    convention: str = "paper"
    components: int | None = None
    drop_global: bool = False
    on_null: bool | None = None

    def __post_init__(self) -> None:
        if self.convention not in CONVENTIONS:
            raise ValueError(unknown("convention", self.convention, CONVENTIONS))
        least, most = CONVENTIONS[self.convention].levels
        if isinstance(self.level, bool) or not isinstance(self.level, int | float) or not least <= self.level <= most:
            raise ValueError(
                f"focus level is {self.level!r}; convention {self.convention!r} takes {least:g} to {most:g}"
            )
        if self.components is not None and self.components < 1:
            raise ValueError(f"components of focus is {self.components}; it must be 1 or more")
        self.weights  # noqa: B018 (refuses levels between those known)

    @property
    def rule(self) -> Convention:
        return CONVENTIONS[self.convention]

    @property
    def neutral(self) -> bool:
        """Whether the components stay as they are."""
        return self.level == self.rule.neutral

    @property
    def weights(self) -> Weights:
        """Factors on the components."""
        return self.rule.weights(self.level, self.components or self.rule.components)


def as_focus(value: Focus | float) -> Focus:
    """A focus as it is, or a number as a position of the 2023 dial: 0 semantics, 0.5 neutral, 1 style."""
    return value if isinstance(value, Focus) else Focus(value, "2023")


@dataclass(frozen=True)
class Parts:
    """Tokens taken apart: kept + removed are the tokens. Both are (B, L, D); the global token is kept."""

    kept: Tensor
    removed: Tensor


def parts(tokens: Float[Tensor, "b l d"], focus: Focus) -> Parts:
    """What a focus keeps of tokens and what it removes, before any spread is brought back.

    Raises:
        ValueError: there are no local tokens, or some are not finite.
    """
    if focus.neutral:
        return Parts(tokens, torch.zeros_like(tokens))
    if tokens.shape[1] < 2:
        raise ValueError(f"focus needs a global token and local ones; the context has {tokens.shape[1]} token")
    kept = torch.cat([tokens[:, :1], weighed(tokens[:, 1:], focus.weights, focus.rule.centre)], dim=1)
    return Parts(kept, tokens - kept)


def apply_focus(tokens: Float[Tensor, "b l d"], focus: Focus | float) -> Float[Tensor, "b k d"]:
    """Tokens as a focus has them guide; K is L, or L - 1 without the global token. Neutral is bit for bit the same.

    Raises:
        ValueError: see `parts`.
    """
    focus = as_focus(focus)
    kept = parts(tokens, focus).kept
    if focus.rule.keeps_spread and not focus.neutral:
        before, after = (local[:, 1:].float().std(dim=(1, 2), keepdim=True) for local in (tokens, kept))
        factor = torch.where(after > 0, before / after, 1).to(kept)
        kept = torch.cat([kept[:, :1], kept[:, 1:] * factor], dim=1)
    return kept[:, 1:] if focus.drop_global else kept


def focus_null(null: Float[Tensor, "b l d"], focus: Focus | float) -> Float[Tensor, "b k d"]:
    """The null context that goes with `apply_focus`: treated likewise where the focus says so."""
    focus = as_focus(focus)
    likewise = focus.rule.on_null if focus.on_null is None else focus.on_null
    return apply_focus(null, focus) if likewise else null[:, 1:] if focus.drop_global else null


def weighed(tokens: Float[Tensor, "b l d"], weights: Weights, centre: int) -> Float[Tensor, "b l d"]:
    """Tokens with factors on their principal components; the mean over axis `centre` stays.

    Raises:
        ValueError: tokens are not finite.
    """
    if not tokens.isfinite().all():
        raise ValueError("tokens hold NaN or infinity, so they have no principal components")
    # One by one and in double precision on the CPU: the same to the last bit in every batch and on every device.
    rows = [_weighed(row, weights, centre) for row in tokens.detach().to("cpu", torch.float64)]
    return torch.stack(rows).to(tokens)


def _weighed(tokens: Float[Tensor, "l d"], weights: Weights, centre: int) -> Float[Tensor, "l d"]:
    mean = tokens.mean(centre, keepdim=True)
    centred = tokens - mean
    wide = centred if len(centred) <= centred.shape[1] else centred.mT
    # Singular vectors of the short side from its Gram matrix, strongest first; those of the long side are not needed.
    vectors = torch.linalg.eigh(wide @ wide.mT).eigenvectors.flip(-1)[:, : len(weights.leading)]
    factors = tokens.new_tensor(weights.leading[: vectors.shape[1]]) - weights.beyond
    changed = weights.beyond * wide + (vectors * factors) @ (vectors.mT @ wide)
    return mean + (changed if wide is centred else changed.mT)


def join_tokens(parts: Sequence[tuple[Tensor, float]]) -> Float[Tensor, "b l d"]:
    """Several contexts of one stream as one: each scaled by its strength, then joined along the tokens, as the 2023 app
    joins pictures.

    Args:
        parts: tokens (B, L_i, D), with a strength of 0 or more each.

    Raises:
        ValueError: there is none, a strength is negative, or the tokens differ in batch or width.
    """
    if not parts:
        raise ValueError("there are no tokens to join")
    shapes = {(tokens.shape[0], tokens.shape[2]) for tokens, _ in parts}
    if len(shapes) > 1:
        raise ValueError(f"tokens to join differ in (batch, width): {sorted(shapes)}")
    if any(strength < 0 for _, strength in parts):
        raise ValueError(f"strengths are {[strength for _, strength in parts]}; each must be 0 or more")
    return torch.cat([tokens * strength for tokens, strength in parts], dim=1)
