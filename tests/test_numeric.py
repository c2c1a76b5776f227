"""Numbers and arrays of numpy and torch, norms in half precision, and what is not finite."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from versatile_diffusion.numeric import as_tensor, check_finite, number, unit

HALVES = [torch.float16, torch.bfloat16]


@pytest.mark.parametrize(
    "given",
    [3, 3.0, np.int8(3), np.uint64(3), np.float16(3), np.float64(3), np.array(3), torch.tensor(3), torch.tensor(3.0)],
)
def test_scalars_of_every_kind_are_numbers(given: Any) -> None:
    assert type(number("steps", given, 1, 5, whole=True)) is int
    assert number("scale", given, 1, 5) == 3
    assert type(number("scale", given)) in (int, float)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (True, "steps is True; it must be a whole number from 1 to 5, not True or False"),
        (np.bool_(True), "not True or False"),
        (2.5, "steps is 2.5; it must be a whole number from 1 to 5"),
        (np.int64(6), "steps is 6; it must be a whole number from 1 to 5"),
        (math.nan, "steps is nan"),
        (torch.tensor(math.inf), "steps is inf"),
        ("3", "steps is '3'"),
        (np.array([3]), "steps is array"),
        (Decimal(3), "steps is Decimal"),
        (10**400, "it must be"),
    ],
)
def test_what_is_no_such_number_is_refused(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        number("steps", given, 1, 5, whole=True)


def test_no_number_is_infinite_where_there_is_no_upper_end() -> None:
    for given in (math.inf, np.float32(np.inf), math.nan):
        with pytest.raises(ValueError, match=r"temperature is .*; it must be a number from 0 up"):
            number("temperature", given)


def test_arrays_and_lists_become_tensors_of_their_own() -> None:
    array = np.arange(6, dtype=np.float64).reshape(2, 3)
    tensor = as_tensor(array)
    array[0] = 9
    assert torch.equal(tensor, torch.arange(6.0).reshape(2, 3))
    assert torch.equal(as_tensor([[0, 1, 2], [3, 4, 5]]), tensor)
    assert torch.equal(as_tensor([np.float16([0, 1, 2]), torch.tensor([3, 4, 5.0])]), tensor)
    assert as_tensor(tensor) is tensor
    for bad in (np.array(["a"]), [[1.0], [1.0, 2.0]], [torch.zeros(2), torch.zeros(3)], {"a": 1}, np.array([1j])):
        with pytest.raises(ValueError, match="latents"):
            as_tensor(bad, "latents")


@pytest.mark.parametrize("dtype", [*HALVES, torch.float32, torch.float64])
def test_unit_vectors_have_norm_one_and_zero_stays_zero(dtype: torch.dtype) -> None:
    rows = torch.tensor([[0, 0, 0], [3, 4, 0], [3e-6, 4e-6, 0], [3e4, 4e4, 0]]).to(dtype)
    found = unit(rows)
    assert found.dtype == dtype
    assert not found[0].any()
    assert torch.allclose(found[1:].float().norm(dim=-1), torch.ones(3), atol=2e-2)


def test_in_float32_unit_is_torchs_normalisation_bit_for_bit() -> None:
    rows = torch.randn(7, 33, generator=torch.Generator().manual_seed(0))
    assert torch.equal(unit(rows), nn.functional.normalize(rows, dim=-1))
    assert torch.equal(unit(rows, dim=0), nn.functional.normalize(rows, dim=0))


def test_what_is_not_finite_names_its_stage_and_the_weight_to_blame() -> None:
    layer = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"^the tokens are not finite: 1 of 4 values are NaN or infinite$"):
        check_finite(torch.tensor([0, math.inf, 1, 2]), "the tokens", layer)
    layer.half()
    with pytest.raises(ValueError, match="computed in float16, so load the model in bfloat16 or float32"):
        check_finite(torch.tensor([math.nan]), "the tokens", layer)
    layer.bias.data[1] = math.nan
    with pytest.raises(ValueError, match="so is the weight bias of Linear"):
        check_finite(torch.tensor([math.nan]), "the tokens", layer)
    good = torch.arange(3)
    assert check_finite(good, "numbers") is good


def test_tensors_of_odd_kinds_become_floats_or_are_refused() -> None:
    assert as_tensor(torch.ones(2, dtype=torch.int8)).dtype == torch.float32
    assert as_tensor(torch.ones(2).to(torch.float8_e4m3fn)).dtype == torch.float32
    with pytest.raises(ValueError, match="real numbers"):
        as_tensor(torch.ones(2, dtype=torch.complex64))
