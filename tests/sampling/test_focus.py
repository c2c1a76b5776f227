"""Focus on semantics or style: laws of taking context tokens apart."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from versatile_diffusion.sampling.focus import (
    CONVENTIONS,
    OVER_CHANNELS,
    OVER_TOKENS,
    Focus,
    Weights,
    apply_focus,
    as_focus,
    focus_null,
    join_tokens,
    parts,
    scale_components,
)

ALL = [
    Focus(level, convention)
    for convention, levels in {"paper": range(-2, 3), "pca": range(-2, 3), "2023": (0, 0.2, 0.5, 0.7, 1)}.items()
    for level in levels
]


@pytest.fixture(params=[(3, 65, 24), (2, 17, 96)], ids=["tall", "wide"])
def tokens(request: pytest.FixtureRequest) -> Tensor:
    return torch.randn(*request.param, generator=torch.Generator().manual_seed(0))


def rank(matrix: Tensor, centre: int) -> int:
    values = torch.linalg.svdvals((matrix - matrix.mean(centre, keepdim=True)).double())
    return int((values > 1e-5 * values.max()).sum())


@pytest.mark.parametrize("focus", ALL, ids=str)
def test_kept_and_removed_are_the_whole(tokens: Tensor, focus: Focus) -> None:
    both = parts(tokens, focus)
    torch.testing.assert_close(both.kept + both.removed, tokens)
    assert torch.equal(both.kept[:, 0], tokens[:, 0]), "the global token is left alone"
    kept, removed = (
        part[:, 1:] - part[:, 1:].mean(focus.rule.centre, keepdim=True) for part in (both.kept, both.removed)
    )
    if set(focus.weights.leading) <= {0.0, 1.0}:  # parts on different directions have nothing in common
        assert (kept * removed).sum(dim=(1, 2)).abs().max() < 1e-3 * tokens.square().sum()


@pytest.mark.parametrize("focus", ALL, ids=str)
def test_an_item_does_not_depend_on_its_batch(tokens: Tensor, focus: Focus) -> None:
    together = apply_focus(tokens, focus)
    for one, alone in zip(together, tokens, strict=True):
        assert torch.equal(one, apply_focus(alone[None], focus)[0])


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_neutral_changes_nothing(tokens: Tensor, convention: str) -> None:
    focus = Focus(CONVENTIONS[convention].neutral, convention)
    assert torch.equal(apply_focus(tokens, focus), tokens)
    assert torch.equal(apply_focus(tokens, replace(focus, drop_global=True)), tokens[:, 1:])


@pytest.mark.parametrize(("convention", "centre"), [("paper", OVER_CHANNELS), ("pca", OVER_TOKENS)])
def test_levels_keep_and_remove_so_many_components(tokens: Tensor, convention: str, centre: int) -> None:
    whole = rank(tokens[0, 1:], centre)
    for level, count in {1: min(10, whole), 2: 2, -1: min(50, whole) - 1, -2: min(50, whole) - 2}.items():
        assert rank(apply_focus(tokens, Focus(level, convention))[0, 1:], centre) == count, level
    strongest = parts(tokens, Focus(-1, convention, components=1000)).removed[0, 1:]
    first = torch.linalg.svdvals((tokens[0, 1:] - tokens[0, 1:].mean(centre, keepdim=True)).double())[0]
    assert torch.linalg.matrix_norm(strongest.double(), 2).item() == pytest.approx(first.item(), rel=1e-5)


def test_the_dial_keeps_the_spread_and_fades_without_a_jump(tokens: Tensor) -> None:
    before = tokens[:, 1:].std(dim=(1, 2))
    for level in (0.0, 0.3, 0.8, 1.0):
        torch.testing.assert_close(apply_focus(tokens, level)[:, 1:].std(dim=(1, 2)), before)
    gap = (apply_focus(tokens, 0.499) - tokens).abs().max()
    assert 0 < gap < 0.05 * tokens.abs().max()
    assert torch.equal(apply_focus(tokens, 0.25), apply_focus(tokens, Focus(0.25, "2023"))), "a number is the dial"


def test_whatever_the_order_of_tokens(tokens: Tensor) -> None:
    order = 1 + torch.randperm(tokens.shape[1] - 1, generator=torch.Generator().manual_seed(1))
    order = torch.cat([torch.zeros(1, dtype=torch.long), order])
    for focus in ALL:
        torch.testing.assert_close(apply_focus(tokens[:, order], focus), apply_focus(tokens, focus)[:, order])


def test_half_precision_and_empty_tokens(tokens: Tensor) -> None:
    low = apply_focus(tokens.to(torch.bfloat16), Focus(-1))
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), apply_focus(tokens, Focus(-1)), rtol=0.05, atol=0.05)
    for focus in ALL:
        assert not apply_focus(torch.zeros(1, 9, 4), focus).any(), "nothing stays nothing, without NaN"


def test_the_null_context(tokens: Tensor) -> None:
    focus = Focus(-1, "2022")
    assert torch.equal(focus_null(tokens, focus), apply_focus(tokens, focus)), "2022 treats it likewise"
    assert torch.equal(focus_null(tokens, replace(focus, on_null=False)), tokens)
    assert torch.equal(focus_null(tokens, Focus(0.2, "2023")), tokens)
    assert torch.equal(focus_null(tokens, Focus(0.2, "2023", drop_global=True)), tokens[:, 1:]), "of one length"
    assert torch.equal(focus_null(tokens, Focus(0.2, "2023", on_null=True)), apply_focus(tokens, 0.2))


def test_weights_of_one_change_nothing(tokens: Tensor) -> None:
    for centre in (OVER_CHANNELS, OVER_TOKENS):
        torch.testing.assert_close(scale_components(tokens, Weights((1.0,) * 5, beyond=1.0), centre), tokens)
        mean = tokens.mean(centre, keepdim=True).expand_as(tokens)
        torch.testing.assert_close(scale_components(tokens, Weights(()), centre), mean)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3, "paper"), "supports -2 to 2"),
        ((-0.1, "2023"), "supports 0 to 1"),
        ((0.5, "paper"), "allowed levels: -2, -1, 0, 1, 2"),
        ((0, "2021"), "unknown convention '2021'"),
        ((True, "paper"), "focus level is True"),
        ((float("nan"), "2023"), "supports 0 to 1"),
        ((1, "paper", 0), "a whole number from 1 to 10000"),
    ],
)
def test_what_is_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Focus(*arguments)


def test_tokens_without_components() -> None:
    with pytest.raises(ValueError, match="local tokens"):
        apply_focus(torch.ones(1, 1, 4), Focus(-1))
    with pytest.raises(ValueError, match="NaN"):
        apply_focus(torch.full((1, 5, 4), torch.nan), Focus(-1))
    assert as_focus(0.5).neutral


def test_joined_tokens(tokens: Tensor) -> None:
    joined = join_tokens([(tokens, 1.0), (tokens[:, :3], 0.5)])
    assert torch.equal(joined, torch.cat([tokens, 0.5 * tokens[:, :3]], dim=1))
    for given, message in (
        ([], "no tokens"),
        ([(tokens, -1.0)], "a number from 0 up"),
        ([(tokens, 1), (tokens[:1], 1)], "differ"),
    ):
        with pytest.raises(ValueError, match=message):
            join_tokens(given)
