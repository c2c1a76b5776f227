"""How varied several texts are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations


def ngrams(text: str, n: int) -> list[tuple[str, ...]]:
    """Runs of n words of a text, lower-cased."""
    words = text.lower().split()
    return [tuple(words[k : k + n]) for k in range(len(words) - n + 1)]


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Share of different ones among all runs of n words in the texts (Li et al. 2016); 0 if there is no such run."""
    found = [run for text in texts for run in ngrams(text, n)]
    return len(set(found)) / len(found) if found else 0.0


def self_similarity(texts: Sequence[str]) -> float:
    """Mean over all pairs of texts of the words that they share: twice the number of common words over the number of
    both texts' words, from 0 (no word in common) to 1 (the same words).

    Raises:
        ValueError: there are fewer than two texts.
    """
    if len(texts) < 2:
        raise ValueError(f"self-similarity compares texts with each other; got {len(texts)}")
    bags = [Counter(text.lower().split()) for text in texts]
    pairs = [_overlap(one, other) for one, other in combinations(bags, 2)]
    return sum(pairs) / len(pairs)


def _overlap(one: Counter[str], other: Counter[str]) -> float:
    total = one.total() + other.total()
    return 2 * (one & other).total() / total if total else 1.0


def statistics(texts: Sequence[str]) -> dict[str, float]:
    """`distinct-1`, `distinct-2` and `self-similarity` of two texts or more, each from 0 to 1."""
    return {
        "distinct-1": distinct_n(texts, 1),
        "distinct-2": distinct_n(texts, 2),
        "self-similarity": self_similarity(texts),
    }
