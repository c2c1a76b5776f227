"""Random numbers by item: one generator each, on the CPU, so item k of a batch equals item k alone."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral

import torch
from jaxtyping import Float
from torch import Tensor

SEED_LIMIT = 2**63


def item_seeds(
    count: int,
    seed: int | Sequence[int] | None = None,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
) -> tuple[int, ...]:
    """One seed per item.

    Args:
        count: number of items.
        seed: item k gets `seed + k`, or the k-th of a list; without seed and generator the first is drawn afresh.
        generator: in place of `seed`, one generator that every item's seed is drawn from, or one per item.

    Raises:
        ValueError: both are given, a seed is out of range, or there is not one seed or generator per item.
    """
    if generator is not None:
        if seed is not None:
            raise ValueError("give seed or generator, not both")
        sources = [generator] * count if isinstance(generator, torch.Generator) else list(generator)
        if len(sources) != count:
            raise ValueError(f"got {len(sources)} generators for {count} items; give one generator, or one per item")
        return tuple(_draw_seed(source) for source in sources)
    if seed is None:
        seed = _draw_seed(torch.default_generator) % 2**32
    seeds = tuple(seed) if isinstance(seed, Sequence) else tuple(seed + k for k in range(count))
    if len(seeds) != count:
        raise ValueError(f"got {len(seeds)} seeds for {count} items; give one seed, or one per item")
    if any(isinstance(one, bool) or not isinstance(one, Integral) or not 0 <= one < SEED_LIMIT for one in seeds):
        raise ValueError(f"seed is {seed}; seeds must be whole numbers from 0 to 2**63 - 1")
    return tuple(int(one) for one in seeds)


def _draw_seed(generator: torch.Generator) -> int:
    return int(torch.randint(SEED_LIMIT - 1, (), generator=generator, device=generator.device))


def candidates(seeds: Sequence[int], count: int) -> tuple[int, ...]:
    """Seeds of so many candidates for each item, side by side: its own seed, and more that are drawn from it."""
    drawn = (torch.randint(SEED_LIMIT - 1, (count - 1,), generator=source).tolist() for source in generators(seeds))
    return tuple(one for own, more in zip(seeds, drawn, strict=True) for one in (own, *more))


def generators(seeds: Sequence[int]) -> list[torch.Generator]:
    """One fresh CPU generator per seed."""
    return [torch.Generator("cpu").manual_seed(seed) for seed in seeds]


def normal(shape: Sequence[int], sources: Sequence[torch.Generator]) -> Float[Tensor, "b ..."]:
    """Standard normal numbers (B, *shape) on the CPU, item k from the k-th generator."""
    return torch.stack([torch.randn(*shape, generator=source) for source in sources])
