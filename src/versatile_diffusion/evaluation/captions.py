"""How well texts agree with reference texts: BLEU, ROUGE-L, CIDEr-D, and whether they name a thing."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

LONGEST = 4  # words of a run
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)?")
Counts = dict[tuple[str, ...], int]


def words(text: str) -> list[str]:
    """The words of a text, lower-cased, without punctuation."""
    return _WORD.findall(text.lower())


def names(text: str, name: str) -> bool:
    """Whether the words of `name` stand in the text, in their order and next to each other."""
    return bool(wanted := words(name)) and f" {' '.join(wanted)} " in f" {' '.join(words(text))} "


def runs(text: str, most: int = LONGEST) -> Counter[tuple[str, ...]]:
    """How often each run of 1 to `most` words occurs."""
    found = words(text)
    return Counter(tuple(found[k : k + n]) for n in range(1, most + 1) for k in range(len(found) - n + 1))


def bleu_counts(text: str, references: Sequence[str]) -> Int[np.ndarray, "10"]:
    """What BLEU sums over a corpus: for runs of 1 to 4 words how many are in a reference and how many there are, the
    length of the text, and of the reference nearest in length."""
    mine, theirs = runs(text), [runs(reference) for reference in references]
    found, total = [0] * LONGEST, [0] * LONGEST
    for run, count in mine.items():
        total[len(run) - 1] += count
        found[len(run) - 1] += min(count, max(reference[run] for reference in theirs))
    length = len(words(text))
    nearest = min((len(words(reference)) for reference in references), key=lambda n: (abs(n - length), n))
    return np.array([*found, *total, length, nearest])


def bleu(counts: Int[np.ndarray, "10"], most: int = LONGEST) -> float:
    """BLEU (Papineni et al. 2002) of summed counts: the geometric mean of the precisions of runs of 1 to `most` words,
    times the brevity penalty; no smoothing, so 0 where some length is never right."""
    found, total, (length, nearest) = counts[:most], counts[LONGEST : LONGEST + most], counts[-2:]
    if not found.all():
        return 0.0
    precision = math.exp(float(np.log(found / total).mean()))
    return precision * min(1.0, math.exp(1 - nearest / length))


def rouge_l(text: str, references: Sequence[str], beta: float = 1.2) -> float:
    """ROUGE-L (Lin 2004) as captions are scored: best precision and best recall of the longest common subsequence."""
    mine = words(text)
    common = [(_subsequence(mine, theirs), len(theirs)) for theirs in map(words, references)]
    precision = max(count / max(1, len(mine)) for count, _ in common)
    recall = max(count / max(1, length) for count, length in common)
    if not precision or not recall:
        return 0.0
    return (1 + beta**2) * precision * recall / (recall + beta**2 * precision)


def _subsequence(left: Sequence[str], right: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(right) + 1)
    for a in left:
        before = 0
        for k, b in enumerate(right, start=1):
            before, row[k] = row[k], before + 1 if a == b else max(row[k], row[k - 1])
    return row[-1]


def cider_d(texts: Sequence[str], references: Sequence[Sequence[str]], sigma: float = 6.0) -> Float[np.ndarray, "n"]:
    """CIDEr-D of each text (Vedantam et al. 2015), 0 to 10: runs of 1 to 4 words, weighted by how few of all items have
    them in their references. It depends on the whole set, and is 0 for a single item."""
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
    """The measure of length in the official CIDEr-D: the number of runs of two words."""
    return sum(count for run, count in counts.items() if len(run) == 2)


def _cosine(
    mine: Sequence[dict[tuple[str, ...], float]],
    theirs: Sequence[dict[tuple[str, ...], float]],
    gap: int,
    sigma: float,
) -> float:
    """Mean over the lengths of runs of the clipped cosine, less for texts of unlike length."""
    total = 0.0
    for a, b in zip(mine, theirs, strict=True):
        norm = math.sqrt(sum(v * v for v in a.values()) * sum(v * v for v in b.values()))
        if norm:
            total += sum(min(value, b.get(run, 0.0)) * b.get(run, 0.0) for run, value in a.items()) / norm
    return total / len(mine) * math.exp(-(gap**2) / (2 * sigma**2))
