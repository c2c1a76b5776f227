"""Muon, the split of parameters between optimizers, and multipliers."""

from __future__ import annotations

import math
import sys
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from versatile_diffusion.diffuser.groups import Multipliers, parameter_groups
from versatile_diffusion.diffuser.unet import MultiFlowUNet
from versatile_diffusion.training.engine.optimizer import OPTIMIZERS, Muon, multiply, orthogonalise, split_parameters


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


FACTORS = {"context": 0.1, "data.image": 0.5}
EXPECTED = {"global": 1.0, "data.image": 0.5, "context.image": 0.1}


def displacements(kind: str, multipliers: Multipliers) -> dict[str, float]:
    """How far one step with a given gradient moves each stream; Muon takes the matrices of `muon`."""
    torch.manual_seed(0)
    unet = MultiFlowUNet(
        {"image": {}},
        {"image": {"width": 12}},
        width=16,
        multipliers=(1,),
        depth=1,
        attends=(True,),
        heads=2,
        norm_groups=4,
    )
    groups = split_parameters(unet, muon=kind == "muon")
    decay = 0.0 if kind == "adam" else 0.1  # Adam's decay is a part of its gradient
    optimizers = groups.optimizers(1e-3, decay, muon_lr=1e-3, kind="sgd" if kind == "muon" else kind)
    multiply(optimizers, unet, multipliers)
    before = {name: p.detach().clone() for name, p in unet.named_parameters()}
    for p in unet.parameters():
        p.grad = torch.randn(p.shape)
    for optimizer in optimizers:
        optimizer.step()
    unet.requires_grad_(False)
    chosen = {id(p) for p in groups.muon} if kind == "muon" else {id(p) for p in unet.parameters()}
    return {
        stream: math.sqrt(sum(float(((p - before[name]) ** 2).sum()) for name, p in members if id(p) in chosen))
        for stream, members in parameter_groups(unet).items()
    }


@pytest.mark.parametrize(
    ("kind", "mode", "achieved"),
    [
        *((kind, "update", True) for kind in ("sgd", "adam", "adamw", "muon")),
        ("sgd", "gradient", True),
        *((kind, "gradient", False) for kind in ("adam", "adamw", "muon")),
    ],
)
def test_the_update_ratio_that_multipliers_achieve(kind: str, mode: str, achieved: bool) -> None:
    """Multiplied gradients scale the updates of SGD alone; multiplied learning rates those of every optimizer."""
    plain = displacements(kind, Multipliers())
    multiplied = displacements(kind, Multipliers(FACTORS, mode))
    ratios = {stream: multiplied[stream] / plain[stream] for stream in plain}
    if mode == "gradient" and achieved:  # the decay of weights is not a part of the gradient
        assert ratios == pytest.approx(EXPECTED, rel=2e-2)
    else:
        assert ratios == pytest.approx(EXPECTED if achieved else dict.fromkeys(EXPECTED, 1.0), rel=2e-3)


def test_without_multipliers_the_optimizers_are_as_they_were() -> None:
    unet = MultiFlowUNet(
        {"image": {}}, {"image": {}}, width=16, multipliers=(1,), depth=1, attends=(True,), norm_groups=4
    )
    groups = split_parameters(unet)
    plain, multiplied = groups.optimizers(1e-3, 0.1), groups.optimizers(1e-3, 0.1)
    multiply(multiplied, unet, Multipliers())
    for one, other in zip(plain, multiplied, strict=True):
        assert str(one.state_dict()) == str(other.state_dict())


def test_optimizers_by_name() -> None:
    groups = split_parameters(nn.Linear(2, 2), muon=False)
    with pytest.raises(ValueError, match="adamw, adam, sgd, adamw-8bit"):
        groups.optimizers(1e-3, 0.0, kind="lion")
    for kind in OPTIMIZERS:
        if kind != "adamw-8bit":
            (optimizer,) = groups.optimizers(1e-3, 0.25, kind=kind)
            assert [group["weight_decay"] for group in optimizer.param_groups] == [0.25, 0.0]


@pytest.mark.parametrize("on_gpu", [True, False])
def test_adamw_is_fused_on_a_gpu(monkeypatch, on_gpu: bool) -> None:
    given = {}
    monkeypatch.setattr(torch.optim, "AdamW", lambda groups, **options: given.update(options))
    monkeypatch.setattr(torch.Tensor, "is_cuda", on_gpu)
    split_parameters(nn.Linear(2, 2), muon=False).optimizers(1e-3, 0.0)
    assert given["fused"] is (True if on_gpu else None)


def test_8_bit_takes_the_place_of_adamw(monkeypatch) -> None:
    class AdamW8bit(torch.optim.AdamW):
        """In place of that of bitsandbytes."""

    monkeypatch.setitem(sys.modules, "bitsandbytes", ModuleType("bitsandbytes"))
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", SimpleNamespace(AdamW8bit=AdamW8bit))
    (optimizer,) = split_parameters(nn.Linear(2, 2), muon=False).optimizers(1e-3, 0.25, kind="adamw-8bit")
    assert isinstance(optimizer, AdamW8bit)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.25, 0.0]


def test_8_bit_says_what_it_needs(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(ValueError, match="pip install bitsandbytes"):
        split_parameters(nn.Linear(2, 2), muon=False).optimizers(1e-3, 0.0, kind="adamw-8bit")
