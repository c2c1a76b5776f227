"""Diversity of texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations


def ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    """Return the n-grams of a text, lower-cased."""
    words = text.lower().split()
    return [tuple(words[k : k + n]) for k in range(len(words) - n + 1)]


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Return the fraction of distinct n-grams in the texts (Li et al. 2016); 0 if there are none."""
    found = [run for text in texts for run in ngrams(text, n)]
    return len(set(found)) / len(found) if found else 0.0


def self_similarity(texts: Sequence[str]) -> float:
    """Return the mean word overlap over all pairs of texts: twice the number of common words over the total number of
    words, from 0 to 1.

    Raises:
        ValueError: fewer than two texts.
    """
    if len(texts) < 2:
        raise ValueError(f"self-similarity needs at least two texts; got {len(texts)}")
    bags = [Counter(text.lower().split()) for text in texts]
    pairs = [_overlap(one, other) for one, other in combinations(bags, 2)]
    return sum(pairs) / len(pairs)


def _overlap(one: Counter[str], other: Counter[str]) -> float:
    total = one.total() + other.total()
    return 2 * (one & other).total() / total if total else 1.0


def statistics(texts: Sequence[str]) -> dict[str, float]:
    """Return `distinct-1`, `distinct-2` and `self-similarity` of two or more texts, each from 0 to 1."""
    return {
        "distinct-1": distinct_n(texts, 1),
        "distinct-2": distinct_n(texts, 2),
        "self-similarity": self_similarity(texts),
    }
