"""Muon, and the split of parameters between optimizers."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from versatile_diffusion.training.optimizer import Muon, orthogonalise, split_parameters


@pytest.mark.parametrize("shape", [(6, 20), (20, 6), (8, 8)])
def test_orthogonalised_matrices_keep_their_directions_and_lose_their_sizes(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, sizes, right = torch.linalg.svd(matrix, full_matrices=False)
    result = orthogonalise(matrix)
    new = left.T @ result @ right.T
    assert (new - new.diag().diag()).abs().max() < 1e-4
    assert sizes.max() / sizes.min() > 1.5
    assert new.diag().min() > 0.5
    assert new.diag().max() < 1.3


def test_an_update_is_scaled_by_the_shape_and_does_not_depend_on_the_size_of_the_gradient() -> None:
    moves = []
    for size in (1.0, 1000.0):
        weight = nn.Parameter(torch.zeros(16, 4))
        weight.grad = size * torch.randn(16, 4, generator=torch.Generator().manual_seed(0))
        Muon([weight], lr=0.1).step()
        moves.append(weight.detach())
    assert torch.allclose(moves[0], moves[1], atol=1e-5)
    assert torch.linalg.matrix_norm(moves[0], 2) < 0.1 * math.sqrt(16 / 4) * 1.3


def test_filters_are_flattened_and_weights_decay() -> None:
    weight = nn.Parameter(torch.ones(4, 3, 2, 2))
    weight.grad = torch.zeros_like(weight)
    Muon([weight], lr=0.1, weight_decay=0.5).step()
    assert torch.allclose(weight, torch.full_like(weight, 0.95))


def test_muon_learns_a_linear_map() -> None:
    torch.manual_seed(0)
    truth, x, layer = torch.randn(5, 7), torch.randn(200, 7), nn.Linear(7, 5, bias=False)
    optimizer = Muon(layer.parameters(), lr=0.05)
    losses = []
    for _ in range(150):
        loss = ((layer(x) - x @ truth.T) ** 2).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < 0.02 * losses[0]


def test_vectors_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3,\)"):
        Muon([nn.Parameter(torch.zeros(3))])


def test_every_parameter_goes_to_one_group() -> None:
    module = nn.ModuleDict(
        {
            "first": nn.Conv2d(3, 4, 3),
            "norm": nn.GroupNorm(2, 4),
            "words": nn.Embedding(9, 4),
            "tied": nn.Linear(4, 9, bias=False),
            "frozen": nn.Linear(2, 2).requires_grad_(False),
            "hidden": nn.Linear(4, 4),
        }
    )
    module["tied"].weight = module["words"].weight
    groups = split_parameters(module, not_muon=("first",))
    assert [p is module["hidden"].weight for p in groups.muon] == [True]
    assert [p is module["first"].weight for p in groups.decay] == [True]
    biases = (module["first"].bias, module["hidden"].bias)
    assert {id(p) for p in groups.no_decay} == {
        id(p) for p in (*biases, *module["norm"].parameters(), module["words"].weight)
    }
    assert not split_parameters(module, muon=False).muon
