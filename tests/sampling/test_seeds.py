"""Random numbers by item."""

from __future__ import annotations

import pytest
import torch

from versatile_diffusion.sampling.seeds import candidates, generators, item_seeds, normal


def test_seeds_count_up() -> None:
    assert item_seeds(3, 7) == (7, 8, 9)
    assert item_seeds(2, [5, 1]) == (5, 1)


def test_fresh_seeds_differ() -> None:
    assert item_seeds(2) != item_seeds(2)


def test_item_equals_item_alone() -> None:
    batch = normal((2, 3), generators(item_seeds(4, 10)))
    for k in range(4):
        assert torch.equal(batch[k : k + 1], normal((2, 3), generators(item_seeds(1, 10 + k))))


def test_candidates_of_an_item_do_not_depend_on_the_others() -> None:
    seeds = candidates((7, 8), 4)
    assert (seeds[0], seeds[4]) == (7, 8)
    assert len(set(seeds)) == 8
    assert seeds[4:] == candidates((8,), 4)
    assert candidates((7, 8), 1) == (7, 8)
    assert candidates((7,), 3) == seeds[:3]


def test_a_generator_moves_on() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = item_seeds(2, generator=generator), item_seeds(2, generator=generator)
    assert len({*first, *second}) == 4
    assert item_seeds(2, generator=torch.Generator().manual_seed(0)) == first


def test_one_generator_per_item() -> None:
    pair = [torch.Generator().manual_seed(s) for s in (3, 4)]
    alone = item_seeds(1, generator=torch.Generator().manual_seed(4))
    assert item_seeds(2, generator=pair)[1:] == alone


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seed": -1}, "from 0 to"),
        ({"seed": 2**63 - 1}, "from 0 to"),
        ({"seed": [1]}, "1 seeds for 2 items"),
        ({"generator": [torch.Generator()]}, "1 generators for 2 items"),
        ({"seed": 1, "generator": torch.Generator()}, "not both"),
    ],
)
def test_refusals(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        item_seeds(2, **options)
