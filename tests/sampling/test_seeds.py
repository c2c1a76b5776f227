"""Random numbers by item."""

from __future__ import annotations

from typing import Any

import numpy as np
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
        ({"seed": -1}, r"seed is -1; it must be an int from 0 to 2\*\*64 - 1"),
        ({"seed": np.int64(-1)}, "seed is -1"),
        ({"seed": [1, -2]}, "seed is -2"),
        ({"seed": 2**64}, "seed is 18446744073709551616; it must be"),
        ({"seed": 2**64 - 1}, "the last of 2 items would exceed"),
        ({"seed": True}, "seed is True; it must be an int"),
        ({"seed": np.bool_(True)}, "seed is True; it must be an int"),
        ({"seed": 7.5}, "seed is 7.5; it must be an int"),
        ({"seed": "7"}, "seed is '7'; it must be an int"),
        ({"seed": b"\x01\x02"}, "it must be an int"),
        ({"seed": np.array([[1, 2]])}, "seed is array"),
        ({"seed": np.array([1, 2, 3])}, "3 seeds for 2 items"),
        ({"seed": [1]}, "1 seeds for 2 items"),
        ({"generator": [torch.Generator()]}, "1 generators for 2 items"),
        ({"seed": 1, "generator": torch.Generator()}, "not both"),
    ],
)
def test_refusals(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        item_seeds(2, **options)


@pytest.mark.parametrize(
    "seed",
    [[3, 4], (3, 4), range(3, 5), np.array([3, 4]), np.array([3, 4], np.uint8), torch.tensor([3, 4]), 3, np.int8(3)],
)
def test_seeds_of_every_kind(seed: Any) -> None:
    assert item_seeds(2, seed) == (3, 4)
    assert all(type(one) is int for one in item_seeds(2, seed))


def test_seeds_of_narrow_types_do_not_wrap_round() -> None:
    assert item_seeds(3, np.uint8(254)) == (254, 255, 256)
    assert item_seeds(2, np.int32(2**31 - 1)) == (2**31 - 1, 2**31)
    assert item_seeds(2, np.uint64(2**64 - 2)) == (2**64 - 2, 2**64 - 1)


def test_all_bits_of_a_seed_count() -> None:
    seeds = [7, 7 + 2**32, 7 + 2**33, 7 + 2**63, 2**32, 2**40, 2**64 - 1, 2**32 - 1]
    drawn = [normal((4,), generators([seed])) for seed in seeds]
    assert all(not torch.equal(a, b) for k, a in enumerate(drawn) for b in drawn[:k])
    assert torch.equal(normal((4,), generators([2**64 - 1])), drawn[6])


def test_seeds_of_32_bits_give_what_torch_gives() -> None:
    for seed in (0, 7, 2**32 - 1):
        torchs = torch.randn(5, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(normal((5,), generators([seed]))[0], torchs)


def test_longer_seeds_are_keys_of_the_mersenne_twister() -> None:
    """The words that torch draws are those of numpy's with the same key, so its whole state was taken over."""
    for seed in (2**32, 12345678901234567890):
        raw = np.random.RandomState([seed % 2**32, seed >> 32]).randint(0, 2**32, 700, dtype=np.uint32)
        drawn = torch.empty(700, dtype=torch.int32).random_(generator=generators([seed])[0])
        assert drawn.tolist() == (raw & 0x7FFFFFFF).tolist()


def test_seeds_that_are_drawn_have_32_bits() -> None:
    """More would say that they count; these are what the lower bits of those drawn before gave."""
    assert max(candidates((7, 2**50), 6)[1:6]) < 2**32
    assert max(item_seeds(4, generator=torch.Generator().manual_seed(0))) < 2**32
