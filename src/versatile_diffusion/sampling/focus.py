"""Transformations of context tokens: focus on semantics or style, and concatenation of several contexts.

Disentanglement (figure 9 of the paper): the global token is kept, the local tokens are decomposed into principal
components. The main components hold style, the minor ones semantics. All functions are deterministic linear algebra on
tokens, independent per item of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from versatile_diffusion.choices import chosen
from versatile_diffusion.numeric import check_finite, is_number, number, plain, settle, switch
from versatile_diffusion.printable import shown

OVER_CHANNELS, OVER_TOKENS = -1, -2
MOST_COMPONENTS = 10_000


@dataclass(frozen=True)
class Weights:
    """Factors on the principal components of the local tokens.

    Args:
        leading: factors of the first components, main component first.
        beyond: factor of all further components.
    """

    leading: tuple[float, ...]
    beyond: float = 0.0


@dataclass(frozen=True)
class Convention:
    """A decomposition of tokens.

    Args:
        levels: minimum and maximum level.
        neutral: level that changes nothing.
        components: number of main components that it distinguishes.
        weights: `(level, components) -> Weights`; ValueError for an unsupported level.
        centre: axis whose mean is removed first and restored at the end: `OVER_CHANNELS` (a mean per token) or
            `OVER_TOKENS` (a mean per channel).
        keeps_spread: whether the standard deviation over all local tokens and channels is restored.
        on_null: whether the null context is transformed, too.
        help: one line for users.
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
    """Return the five levels of figure 9: -2 and -1 remove the 2 or 1 main components (semantics); 1 and 2 keep only
    the 10 or 2 main components (style)."""
    kept = {-2: (2, components), -1: (1, components), 0: (0, components), 1: (0, 10), 2: (0, 2)}
    if level not in kept:
        raise ValueError(f"focus level is {level}; allowed levels: {', '.join(map(str, kept))}")
    first, end = kept[int(level)]
    return Weights((0.0,) * first + (1.0,) * (min(end, components) - first))


def by_dial(level: float, components: int, semantics: int = 1, style: int = 5) -> Weights:
    """Return the focus of the 2023 demo, from 0 (semantics) over 0.5 (unchanged) to 1 (style).

    Below 0.5 the `semantics + 1` main components fade out, first one first. Above 0.5 those after the `style` main
    components fade out, last one first, and components beyond `components` are removed.
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
    (-2, 2), 0, 50, by_level, on_null=True, help="The paper's levels -2 to 2, centred per token as in 2022."
)
CONVENTIONS: Mapping[str, Convention] = {
    "paper": _PAPER,
    "2022": _PAPER,
    "2023": Convention((0, 1), 0.5, 20, by_dial, keeps_spread=True, help="The focus 0 to 1 of the 2023 demo."),
    "pca": Convention(
        (-2, 2), 0, 50, by_level, OVER_TOKENS, help="The paper's levels with standard PCA over the tokens."
    ),
}
"""Decompositions of tokens, by name."""


@dataclass(frozen=True)
class Focus:
    """Focus of a condition on semantics or style.

    Args:
        level: below neutral for semantics, above for style; the range depends on the convention.
        convention: key of `CONVENTIONS`.
        components: number of distinguished components; by default the convention's (50, later ones have little effect;
            20 in 2023). Further components are kept or dropped as a whole.
        drop_global: drop token 0, "for art".
        on_null: whether the null context is transformed, too; by default as in the convention. `drop_global` always
            drops its token 0.

    Raises:
        ValueError: an unknown convention, or an unsupported level.
    """

    level: float
    convention: str = "paper"
    components: int | None = None
    drop_global: bool = False
    on_null: bool | None = None

    def __post_init__(self) -> None:
        chosen("convention", self.convention, CONVENTIONS)
        least, most = CONVENTIONS[self.convention].levels
        given = plain(self.level)
        if not is_number(given) or not least <= given <= most:
            raise ValueError(
                f"focus level is {shown(given)}; convention {shown(self.convention)} supports {least:g} to {most:g}"
            )
        settled = {"level": given, "drop_global": switch("drop_global", self.drop_global)}
        if self.components is not None:
            settled["components"] = number("components of focus", self.components, 1, MOST_COMPONENTS, whole=True)
        if self.on_null is not None:
            settled["on_null"] = switch("on_null", self.on_null)
        settle(self, **settled)
        self.weights  # noqa: B018 (refuses unsupported levels)

    @property
    def rule(self) -> Convention:
        return CONVENTIONS[self.convention]

    @property
    def neutral(self) -> bool:
        """Whether the components are unchanged."""
        return self.level == self.rule.neutral

    @property
    def weights(self) -> Weights:
        """Factors on the components."""
        return self.rule.weights(self.level, self.components or self.rule.components)


def as_focus(value: Focus | float) -> Focus:
    """Return a focus; a number is a level of the 2023 demo: 0 semantics, 0.5 neutral, 1 style."""
    return value if isinstance(value, Focus) else Focus(value, "2023")


@dataclass(frozen=True)
class Parts:
    """Decomposed tokens; kept + removed are the tokens. Both are (B, L, D); the global token is in kept."""

    kept: Tensor
    removed: Tensor


def parts(tokens: Float[Tensor, "b l d"], focus: Focus) -> Parts:
    """Split tokens into what a focus keeps and removes, before the spread is restored.

    Raises:
        ValueError: no local tokens, or tokens that are not finite.
    """
    if focus.neutral:
        return Parts(tokens, torch.zeros_like(tokens))
    if tokens.shape[1] < 2:
        raise ValueError(f"focus needs a global token and local tokens; the context has {tokens.shape[1]} token")
    kept = torch.cat([tokens[:, :1], scale_components(tokens[:, 1:], focus.weights, focus.rule.centre)], dim=1)
    return Parts(kept, tokens - kept)


def apply_focus(tokens: Float[Tensor, "b l d"], focus: Focus | float) -> Float[Tensor, "b k d"]:
    """Apply a focus to tokens; K is L, or L - 1 without the global token. Neutral is bit-identical.

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
    """Apply a focus to a null context, if the focus includes it."""
    focus = as_focus(focus)
    likewise = focus.rule.on_null if focus.on_null is None else focus.on_null
    return apply_focus(null, focus) if likewise else null[:, 1:] if focus.drop_global else null


def scale_components(tokens: Float[Tensor, "b l d"], weights: Weights, centre: int) -> Float[Tensor, "b l d"]:
    """Scale the principal components of tokens; the mean over axis `centre` is kept.

    Raises:
        ValueError: tokens that are not finite.
    """
    check_finite(tokens, "the tokens to decompose")
    # Item by item in double precision on the CPU: bit-identical in every batch and on every device.
    rows = [_scale_components(row, weights, centre) for row in tokens.detach().to("cpu", torch.float64)]
    return torch.stack(rows).to(tokens)


def _scale_components(tokens: Float[Tensor, "l d"], weights: Weights, centre: int) -> Float[Tensor, "l d"]:
    mean = tokens.mean(centre, keepdim=True)
    centred = tokens - mean
    wide = centred if len(centred) <= centred.shape[1] else centred.mT
    # Singular vectors of the short side from its Gram matrix, largest first; those of the long side are not needed.
    vectors: Tensor = torch.linalg.eigh(wide @ wide.mT).eigenvectors.flip(-1)[:, : len(weights.leading)]
    factors = tokens.new_tensor(weights.leading[: vectors.shape[1]]) - weights.beyond
    changed = weights.beyond * wide + (vectors * factors) @ (vectors.mT @ wide)
    return mean + (changed if wide is centred else changed.mT)


def join_tokens(parts: Sequence[tuple[Tensor, float]]) -> Float[Tensor, "b l d"]:
    """Concatenate several contexts of a stream along the tokens, each scaled by its strength, as the 2023 demo does for
    images.

    Args:
        parts: tokens (B, L_i, D), each with a strength of 0 or more.

    Raises:
        ValueError: no parts, a negative strength, or different batch sizes or widths.
    """
    if not parts:
        raise ValueError("no tokens to join")
    shapes = {(tokens.shape[0], tokens.shape[2]) for tokens, _ in parts}
    if len(shapes) > 1:
        raise ValueError(f"tokens to join differ in (batch, width): {sorted(shapes)}")
    return torch.cat([tokens * number("strength of a part", strength) for tokens, strength in parts], dim=1)
