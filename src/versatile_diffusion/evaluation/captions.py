"""Caption metrics: BLEU, ROUGE-L, CIDEr-D, and whether a text names a concept."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

LONGEST = 4  # maximum n-gram length
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
Counts = dict[tuple[str, ...], int]


def words(text: str) -> list[str]:
    """Return the words of a text, lower-cased, without punctuation."""
    return _WORD.findall(text.lower())


def names(text: str, name: str) -> bool:
    """Return whether the text contains the words of `name` as a phrase."""
    return bool(wanted := words(name)) and f" {' '.join(wanted)} " in f" {' '.join(words(text))} "


def runs(text: str, most: int = LONGEST) -> Counter[tuple[str, ...]]:
    """Count the n-grams of 1 to `most` words."""
    found = words(text)
    return Counter(tuple(found[k : k + n]) for n in range(1, most + 1) for k in range(len(found) - n + 1))


def bleu_counts(text: str, references: Sequence[str]) -> Int[np.ndarray, "10"]:
    """Return BLEU's counts: matching and total n-grams for n = 1 to 4, the text's length, and the length of the closest
    reference."""
    mine, theirs = runs(text), [runs(reference) for reference in references]
    found, total = [0] * LONGEST, [0] * LONGEST
    for run, count in mine.items():
        total[len(run) - 1] += count
        found[len(run) - 1] += min(count, max(reference[run] for reference in theirs))
    length = len(words(text))
    nearest = min((len(words(reference)) for reference in references), key=lambda n: (abs(n - length), n))
    return np.array([*found, *total, length, nearest])


def bleu(counts: Int[np.ndarray, "10"], most: int = LONGEST) -> float:
    """Compute BLEU (Papineni et al. 2002) from summed counts: the geometric mean of n-gram precisions up to `most`,
    times the brevity penalty; no smoothing, so 0 if no n-gram of some length matches."""
    found, total, (length, nearest) = counts[:most], counts[LONGEST : LONGEST + most], counts[-2:]
    if not found.all():
        return 0.0
    precision = math.exp(float(np.log(found / total).mean()))
    return precision * min(1.0, math.exp(1 - nearest / length))


def rouge_l(text: str, references: Sequence[str], beta: float = 1.2) -> float:
    """Compute ROUGE-L (Lin 2004) as for captions: best precision and recall of the longest common subsequence."""
    mine = words(text)
    common = [(_subsequence(mine, theirs), len(theirs)) for theirs in map(words, references)]
    precision = max(count / max(1, len(mine)) for count, _ in common)
    recall = max(count / max(1, length) for count, length in common)
    if not precision or not recall:
        return 0.0
    return (1 + beta**2) * precision * recall / (recall + beta**2 * precision)


def _subsequence(left: Sequence[str], right: Sequence[str]) -> int:
    """Return the length of the longest common subsequence."""
    row = [0] * (len(right) + 1)
    for a in left:
        before = 0
        for k, b in enumerate(right, start=1):
            before, row[k] = row[k], before + 1 if a == b else max(row[k], row[k - 1])
    return row[-1]


def cider_d(texts: Sequence[str], references: Sequence[Sequence[str]], sigma: float = 6.0) -> Float[np.ndarray, " n"]:
    """Compute CIDEr-D of each text (Vedantam et al. 2015), 0 to 10: n-grams of 1 to 4 words with TF-IDF weights over
    the references of the whole set. It is 0 for a single item."""
    known = [[runs(reference) for reference in row] for row in references]
    occurs = Counter(run for row in known for run in set().union(*row))
    rarity = {run: math.log(len(references)) - math.log(count) for run, count in occurs.items()}
    unknown = math.log(max(1, len(references)))

    def weighted(counts: Counter[tuple[str, ...]]) -> list[dict[tuple[str, ...], float]]:
        split: list[dict[tuple[str, ...], float]] = [{} for _ in range(LONGEST)]
        for run, count in counts.items():
            split[len(run) - 1][run] = count * rarity.get(run, unknown)
        return split

    scores = []
    for text, row in zip(texts, known, strict=True):
        mine = runs(text)
        vectors = weighted(mine)
        each = [_cosine(vectors, weighted(one), _pairs(mine) - _pairs(one), sigma) for one in row]
        scores.append(10 * sum(each) / max(1, len(each)))
    return np.array(scores)


def _pairs(counts: Counter[tuple[str, ...]]) -> int:
    """Return the length measure of the official CIDEr-D: the number of bigrams."""
    return sum(count for run, count in counts.items() if len(run) == 2)


def _cosine(
    mine: Sequence[dict[tuple[str, ...], float]],
    theirs: Sequence[dict[tuple[str, ...], float]],
    gap: int,
    sigma: float,
) -> float:
    """Return the mean clipped cosine over n-gram lengths, with a penalty for different text lengths."""
    total = 0.0
    for a, b in zip(mine, theirs, strict=True):
        norm = math.sqrt(sum(v * v for v in a.values()) * sum(v * v for v in b.values()))
        if norm:
            total += sum(min(value, b.get(run, 0.0)) * b.get(run, 0.0) for run, value in a.items()) / norm
    return total / len(mine) * math.exp(-(gap**2) / (2 * sigma**2))
