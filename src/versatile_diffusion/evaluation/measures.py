"""All metrics, by generated modality: per-item scores and their aggregation."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float

from versatile_diffusion.evaluation import captions
from versatile_diffusion.evaluation.distances import Gaussian, frechet, gaussian_distance, kernel_distance, ssim
from versatile_diffusion.evaluation.intervals import (
    ONE,
    PARTS,
    TOO_FEW,
    Measured,
    Statistic,
    bootstrap,
    jackknife,
    mean,
)
from versatile_diffusion.evaluation.items import Items
from versatile_diffusion.evaluation.networks import Networks, pixels
from versatile_diffusion.evaluation.recognition import EncoderJudge, classify, vectors
from versatile_diffusion.evaluation.text_statistics import distinct_n, self_similarity
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.training.parts.codecs import psnr


@dataclass(frozen=True)
class Generated:
    """Values generated for the items of a split.

    Args:
        modality: modality of the values.
        values: `seeds` per item, adjacent; images are fitted to the protocol's side.
        items: the items.
        source: modality of the input; None for the given values themselves.
        exact: whether the output should equal the input (codecs).
    """

    modality: str
    values: Sequence[Any]
    items: Items
    source: str | None
    exact: bool = False

    @property
    def copies(self) -> int:
        return len(self.values) // len(self.items)

    def given(self, modality: str) -> list[Any]:
        """Return the items' own values of a modality, one per generated value."""
        return [value for value in self.items.given[modality] for _ in range(self.copies)]


@dataclass(frozen=True)
class Bench:
    """Resources of a split's metrics: networks, encoder vocabulary, and features of real images."""

    networks: Networks
    encoder_judge: EncoderJudge | None
    real: Mapping[str, Float[np.ndarray, "n d"]]


@dataclass(frozen=True)
class Scores:
    """Per-item scores (first axis), and their aggregation.

    Args:
        duplicates_shift: whether duplicated items bias the statistic, so that it cannot be bootstrapped.
        fewest: minimum entries for a value.
        enough: minimum entries for a reliable value.
        never: reason why there is no value, independent of the number of entries.
    """

    rows: np.ndarray
    statistic: Statistic = mean
    duplicates_shift: bool = False
    fewest: int = 1
    enough: float = 1
    never: str = ""

    def measured(self, chosen: np.ndarray, resamples: int) -> Measured | None:
        """Aggregate the chosen items with a confidence interval; None if no item has an entry."""
        rows = self.rows[chosen]
        if rows.dtype.kind == "f":
            rows = rows[~np.isnan(rows.reshape(len(rows), -1)).any(1)]
        if not len(rows):
            return None
        entries = len(rows) * (rows.shape[1] if rows.ndim > 1 else 1)
        if self.never or entries < self.fewest:
            return Measured(None, None, None, len(rows), self.never or TOO_FEW)
        found = jackknife(rows, self.statistic) if self.duplicates_shift else bootstrap(rows, self.statistic, resamples)
        return found if entries >= self.enough else replace(found, remark=TOO_FEW)


Measure = Callable[[Generated, Bench], dict[str, Scores]]


def per_item(values: Any, made: Generated) -> np.ndarray:
    """Reshape scores to one row per item."""
    return rearrange(np.asarray(values), "(n copies) ... -> n copies ...", copies=made.copies)


def recognise(made: Generated, bench: Bench) -> dict[str, Scores]:
    """Recognition of concept and style, by the judge (images) and the encoders, if the data set has class labels."""
    found: dict[str, np.ndarray] = {}
    if (classes := made.items.classes) is None:
        return {}
    if MODALITIES[made.modality].form == "painted" and bench.networks.judge is not None:
        found |= classify(bench.networks.judge, made.values, classes)
    if bench.encoder_judge is not None and made.modality in bench.networks.encoders:
        found |= bench.encoder_judge.hits(made.modality, made.values, classes)
    return {name: Scores(per_item(hits, made)) for name, hits in found.items()}


def agreement(made: Generated, bench: Bench) -> dict[str, Scores]:
    """Cosine similarity to the item's own text and image in the encoders' space (CLIP score with CLIP)."""
    encoders = bench.networks.encoders
    found: dict[str, Scores] = {}
    if made.modality not in encoders:
        return found
    for modality, encoder in encoders.items():
        if modality in made.items.given and (made.source is not None or modality != made.modality):
            mine, _ = vectors(encoders[made.modality], made.values)
            theirs, _ = vectors(encoder, made.items.given[modality])
            cosines = (mine * theirs.repeat_interleave(made.copies, 0)).sum(1)
            found[f"agreement/{modality}"] = Scores(per_item(cosines.cpu().double().numpy(), made))
    return found


def set_distances(made: Generated, bench: Bench) -> dict[str, Scores]:
    """Distances of the generated images to the split's other real images, by each feature network."""
    found = {}
    for network in bench.networks.features:
        rows, real = per_item(network(made.values), made), bench.real[network.name]
        for name, distance in DISTANCES.items():
            enough = max(PARTS, rows.shape[-1] + 1 if name == "fid" else 0)  # below, the covariance is singular
            scores = Scores(rows, _between(distance(real)), duplicates_shift=True, fewest=2, enough=enough)
            found[f"{network.name}/{name}"] = scores if len(real) >= enough else replace(scores, enough=math.inf)
    return found


def _between(distance: Statistic) -> Statistic:
    return lambda rows: distance(rearrange(rows, "n copies d -> (n copies) d"))


def _frechet_to(real: np.ndarray) -> Statistic:
    theirs = Gaussian.of(real)
    return lambda features: frechet(theirs, Gaussian.of(features))


DISTANCES: dict[str, Callable[[np.ndarray], Statistic]] = {
    "fid": _frechet_to,
    "kid": lambda real: lambda features: kernel_distance(features, real),
    "cmmd": lambda real: lambda features: gaussian_distance(features, real),
}
"""Distances to real features."""


def reconstruction_quality(made: Generated, bench: Bench) -> dict[str, Scores]:
    """PSNR (dB) and SSIM of reconstructed images."""
    if not made.exact:
        return {}
    device = torch.device("cpu")
    mine, theirs = pixels(made.values, device), pixels(made.given("image"), device)
    return {name: Scores(per_item(f(mine, theirs).numpy(), made)) for name, f in (("psnr", psnr), ("ssim", ssim))}


def name_rates(made: Generated, bench: Bench) -> dict[str, Scores]:
    """Whether a text contains its concept's label, or the label or a synonym (if the data set has labels); equals a
    caption of the item; and differs from the input text."""
    texts, classes = per_item(np.array(made.values, dtype=object), made), made.items.classes
    found: dict[str, Callable[[str, int], bool]] = {}
    if classes is not None:
        names = [(label, *others) for label, others in zip(classes.labels, classes.synonyms, strict=True)]
        found["label"] = lambda text, item: captions.names(text, names[item][0])
        found["label or synonym"] = lambda text, item: any(captions.names(text, name) for name in names[item])
    known = [[captions.words(caption) for caption in row] for row in made.items.references]
    found["is a caption"] = lambda text, item: captions.words(text) in known[item]
    if made.source == made.modality:
        given = [captions.words(text) for text in made.items.given[made.source]]
        found["differs"] = lambda text, item: captions.words(text) != given[item]
    return {
        f"text/{name}": Scores(np.array([[hit(text, k) for text in row] for k, row in enumerate(texts)], float))
        for name, hit in found.items()
    }


def against_references(made: Generated, bench: Bench) -> dict[str, Scores]:
    """CIDEr-D, BLEU and ROUGE-L against the items' captions."""
    references = [row for row in made.items.references for _ in range(made.copies)]
    pairs = list(zip(made.values, references, strict=True))
    counts = per_item(np.stack([captions.bleu_counts(text, row) for text, row in pairs]), made)
    return {
        "text/CIDEr-D": Scores(
            per_item(captions.cider_d(made.values, references), made),
            never="" if len(made.items) > 1 else ONE,  # TF-IDF needs several items
        ),
        "text/ROUGE-L": Scores(per_item([captions.rouge_l(text, row) for text, row in pairs], made)),
        **{f"text/BLEU-{n}": Scores(counts, partial(_bleu, most=n)) for n in (1, captions.LONGEST)},
    }


def _bleu(rows: np.ndarray, most: int) -> float:
    return captions.bleu(rows.reshape(-1, rows.shape[-1]).sum(0), most)


def variety(made: Generated, bench: Bench) -> dict[str, Scores]:
    """Distinct n-grams over all texts, and diversity among the texts of an item (undefined for one text)."""
    rows = per_item(np.array(made.values, dtype=object), made)
    found = {f"text/distinct-{n}": Scores(rows, partial(_distinct, n=n), duplicates_shift=True) for n in (1, 2)}
    if made.copies > 1:
        return found | {"text/diversity": Scores(np.array([1 - self_similarity(list(row)) for row in rows]))}
    return found | {"text/diversity": Scores(np.zeros(len(rows)), never="one text each")}


def _distinct(rows: np.ndarray, n: int) -> float:
    return distinct_n([" ".join(captions.words(text)) for text in rows.ravel()], n)


MEASURES: dict[str, Measure] = {
    "recognised": recognise,
    "agreement": agreement,
    "set_distances": set_distances,
    "restored": reconstruction_quality,
    "named": name_rates,
    "against_references": against_references,
    "variety": variety,
}
"""Metrics by name, as in modality records."""


def measure(made: Generated, bench: Bench, resamples: int) -> dict[str, dict[str, Measured]]:
    """Compute all metrics by group of items, then by name."""
    chosen_by_it = (MEASURES[name] for name in MODALITIES[made.modality].measures)
    scores = {name: score for one in chosen_by_it for name, score in one(made, bench).items()}
    result: dict[str, dict[str, Measured]] = {}
    for group, chosen in made.items.groups.items():
        found = {name: score.measured(chosen.numpy(), resamples) for name, score in scores.items()}
        result[group] = {name: value for name, value in found.items() if value is not None}
    return result
