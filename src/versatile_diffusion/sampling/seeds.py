"""Per-item random numbers: one CPU generator per item, so that results do not depend on the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from versatile_diffusion.numeric import plain, sequence
from versatile_diffusion.printable import shown

Seed = SupportsIndex | Sequence[SupportsIndex] | np.ndarray | Tensor | None
"""One generator for all items, one per item, or None."""
BITS = 64
"""Supported numbers of seed bits."""
SEED_LIMIT = 2**BITS
DRAWN = 2**32
"""Exclusive upper bound of random seeds."""
WORDS = slice(24, 24 + 624 * 8)
"""Position of the Mersenne Twister state in a generator's state: 624 words of 64 bits, half of each used."""


def item_seeds(
    count: int,
    seed: Seed = None,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
) -> tuple[int, ...]:
    """Return one seed per item.

    Args:
        count: number of items.
        seed: an integer: item k uses `seed + k`; or one per item. Random if neither seed nor generator is given.
        generator: instead of `seed`: one generator to draw all seeds from, or one per item.

    Raises:
        ValueError: both given, a seed out of range, or not one seed or generator per item.
    """
    if generator is not None:
        if seed is not None:
            raise ValueError("give seed or generator, not both")
        sources = [generator] * count if isinstance(generator, torch.Generator) else sequence(generator)
        if sources is None or not all(isinstance(source, torch.Generator) for source in sources):
            raise ValueError(
                f"generator is {shown(generator)}; it must be a torch.Generator, or a list with one per item"
            )
        if len(sources) != count:
            raise ValueError(f"got {len(sources)} generators for {count} items; give one generator, or one per item")
        return tuple(_draw_seed(source) for source in sources)
    if seed is None:
        seed = _draw_seed(torch.default_generator)
    if (several := sequence(seed)) is not None:
        seeds = tuple(map(_check_seed, several))
    else:
        first = _check_seed(seed)
        seeds = tuple(first + k for k in range(count))
    if len(seeds) != count:
        raise ValueError(f"got {len(seeds)} seeds for {count} items; give one seed, or one per item")
    if seeds and seeds[-1] >= SEED_LIMIT:
        raise ValueError(f"seed is {shown(seed)}; the last of {count} items would exceed 2**64 - 1")
    return seeds


def _check_seed(seed: Any) -> int:
    given = plain(seed)
    if isinstance(given, bool) or not isinstance(given, int) or not 0 <= given < SEED_LIMIT:
        raise ValueError(f"seed is {shown(given)}; it must be an int from 0 to 2**64 - 1, or a list with one per item")
    return int(given)


def _draw_seed(generator: torch.Generator) -> int:
    return int(torch.randint(2**63 - 1, (), generator=generator, device=generator.device)) % DRAWN


def candidates(seeds: Sequence[int], count: int) -> tuple[int, ...]:
    """Return seeds of each item's candidates, adjacent: its own seed, and further ones derived from it."""
    drawn = (torch.randint(2**63 - 1, (count - 1,), generator=source).tolist() for source in generators(seeds))
    return tuple(one for own, more in zip(seeds, drawn, strict=True) for one in (own, *(seed % DRAWN for seed in more)))


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """Return one fresh CPU generator per seed."""
    return [generator_of(seed) for seed in seeds]


def generator_of(seed: int) -> torch.Generator:
    """Return a generator that uses all bits of a seed.

    torch seeds its Mersenne Twister with the lower 32 bits only. Larger seeds are used as a key of two or more words by
    the algorithm's `init_by_array`, which numpy provides.
    """
    generator = torch.Generator("cpu").manual_seed(seed % 2**32)
    if seed < 2**32:
        return generator
    key = [seed >> shift & 0xFFFFFFFF for shift in range(0, max(seed.bit_length(), BITS), 32)]
    words = np.random.RandomState(key).get_state()[1]  # type: ignore[index]
    state = generator.get_state()
    state[WORDS] = torch.from_numpy(np.asarray(words).astype(np.int64).view(np.uint8))
    return generator.set_state(state)


def normal(shape: Sequence[int], sources: Sequence[torch.Generator]) -> Float[Tensor, "b ..."]:
    """Draw standard normal numbers (B, *shape) on the CPU, item k from generator k."""
    return torch.stack([torch.randn(*shape, generator=source) for source in sources])
