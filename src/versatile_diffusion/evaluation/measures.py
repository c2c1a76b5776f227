"""All measures, in a table by the modality that was made: scores of items, and how they become a number."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float

from versatile_diffusion.evaluation import captions
from versatile_diffusion.evaluation.distances import Gaussian, frechet, gaussian_distance, kernel_distance, ssim
from versatile_diffusion.evaluation.intervals import Measured, Statistic, bootstrap, jackknife, mean
from versatile_diffusion.evaluation.networks import Networks, pixels
from versatile_diffusion.evaluation.recognition import EncoderJudge, Items, judged, vectors
from versatile_diffusion.evaluation.text_statistics import distinct_n, self_similarity
from versatile_diffusion.training.codecs import psnr


@dataclass(frozen=True)
class Made:
    """What was made of the items of a split.

    Args:
        modality: of the values.
        values: `seeds` of each item, next to each other; pictures are fitted to the protocol's side.
        items: what they were made of.
        source: the modality that was given; None where the values are the given ones.
        exact: whether the given value should have come back.
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
        """The items' own values of a modality, one for each of the values made."""
        return [value for value in self.items.given[modality] for _ in range(self.copies)]


@dataclass(frozen=True)
class Bench:
    """What measures of one split use: the networks, what the encoders know, and features of real pictures."""

    networks: Networks
    encoder_judge: EncoderJudge | None
    real: Mapping[str, Float[np.ndarray, "n d"]]


@dataclass(frozen=True)
class Scores:
    """Entries per item (along the first axis), and the number that they make.

    Args:
        duplicates_shift: whether an item drawn twice changes the number for the wrong, so that it cannot be resampled.
        groups: whether parts of the items are measured apart.
    """

    rows: np.ndarray
    statistic: Statistic = mean
    duplicates_shift: bool = False
    groups: bool = True

    def measured(self, chosen: np.ndarray, resamples: int) -> Measured | None:
        """The number for the chosen items, with its interval; None where no item has an entry."""
        rows = self.rows[chosen]
        if rows.dtype.kind == "f":
            rows = rows[~np.isnan(rows.reshape(len(rows), -1)).any(1)]
        if not len(rows):
            return None
        if self.duplicates_shift:
            return jackknife(rows, self.statistic)
        return bootstrap(rows, self.statistic, resamples)


Measure = Callable[[Made, Bench], dict[str, Scores]]


def per_item(values: Any, made: Made) -> np.ndarray:
    """Entries of values, those of an item in one row."""
    return rearrange(np.asarray(values), "(n copies) ... -> n copies ...", copies=made.copies)


def recognised(made: Made, bench: Bench) -> dict[str, Scores]:
    """Concept and style, by the judge (of pictures) and by the encoders."""
    found: dict[str, np.ndarray] = {}
    if made.modality == "image" and bench.networks.judge is not None:
        found |= judged(bench.networks.judge, made.values, made.items)
    if bench.encoder_judge is not None and made.modality in bench.networks.encoders:
        found |= bench.encoder_judge.hits(made.modality, made.values, made.items)
    return {name: Scores(per_item(hits, made)) for name, hits in found.items()}


def agreement(made: Made, bench: Bench) -> dict[str, Scores]:
    """Cosines of what the encoders see in the values and in the item's own text and picture (CLIP score, if CLIP's)."""
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


def set_distances(made: Made, bench: Bench) -> dict[str, Scores]:
    """Distances of the set of pictures to the split's other real ones, by each feature network."""
    found = {}
    for network in bench.networks.features:
        rows, real = per_item(network(made.values), made), bench.real[network.name]
        for name, distance in DISTANCES.items():
            found[f"{network.name}/{name}"] = Scores(
                rows, _between(distance(real)), duplicates_shift=True, groups=False
            )
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
"""Real features to the distance of others from them."""


def restored(made: Made, bench: Bench) -> dict[str, Scores]:
    """Of pictures that should come back: PSNR in decibels and SSIM."""
    if not made.exact:
        return {}
    device = torch.device("cpu")
    mine, theirs = pixels(made.values, device), pixels(made.given("image"), device)
    return {name: Scores(per_item(f(mine, theirs).numpy(), made)) for name, f in (("psnr", psnr), ("ssim", ssim))}


def named(made: Made, bench: Bench) -> dict[str, Scores]:
    """Whether a text names its concept by the label, or by that or another of its names; whether it is a caption of the
    item word for word; and whether it is other than the text that was given."""
    items, copies = made.items, made.copies
    found: dict[str, list[bool]] = {"label": [], "label or synonym": [], "is a caption": [], "differs": []}
    for k, text in enumerate(made.values):
        item = k // copies
        others = items.synonyms[item]
        found["label"].append(captions.names(text, items.labels[item]))
        found["label or synonym"].append(found["label"][-1] or any(captions.names(text, name) for name in others))
        found["is a caption"].append(captions.words(text) in [captions.words(r) for r in items.references[item]])
        found["differs"].append(captions.words(text) != captions.words(items.given["text"][item]))
    if made.source != "text":
        del found["differs"]
    return {f"text/{name}": Scores(per_item(np.array(hits, float), made)) for name, hits in found.items()}


def against_references(made: Made, bench: Bench) -> dict[str, Scores]:
    """CIDEr-D, BLEU and ROUGE-L against the captions of the items."""
    references = [row for row in made.items.references for _ in range(made.copies)]
    pairs = list(zip(made.values, references, strict=True))
    counts = per_item(np.stack([captions.bleu_counts(text, row) for text, row in pairs]), made)
    return {
        "text/CIDEr-D": Scores(per_item(captions.cider_d(made.values, references), made)),
        "text/ROUGE-L": Scores(per_item([captions.rouge_l(text, row) for text, row in pairs], made)),
        **{f"text/BLEU-{n}": Scores(counts, partial(_bleu, most=n)) for n in (1, captions.LONGEST)},
    }


def _bleu(rows: np.ndarray, most: int) -> float:
    return captions.bleu(rows.reshape(-1, rows.shape[-1]).sum(0), most)


def variety(made: Made, bench: Bench) -> dict[str, Scores]:
    """Distinct runs of words over all texts; and, of several texts for an item, how little they share."""
    rows = per_item(np.array(made.values, dtype=object), made)
    found = {f"text/distinct-{n}": Scores(rows, partial(_distinct, n=n), duplicates_shift=True) for n in (1, 2)}
    if made.copies > 1:
        found["text/diversity"] = Scores(np.array([1 - self_similarity(list(row)) for row in rows]))
    return found


def _distinct(rows: np.ndarray, n: int) -> float:
    return distinct_n([" ".join(captions.words(text)) for text in rows.ravel()], n)


MEASURES: dict[str, tuple[Measure, ...]] = {
    "image": (recognised, agreement, set_distances, restored),
    "text": (recognised, agreement, named, against_references, variety),
}
"""By the modality that was made."""


def measure(made: Made, bench: Bench, resamples: int) -> dict[str, dict[str, Measured]]:
    """All measures, by group of items and then by name."""
    scores = {name: score for one in MEASURES[made.modality] for name, score in one(made, bench).items()}
    result: dict[str, dict[str, Measured]] = {}
    for group, chosen in made.items.groups.items():
        wanted = {name: score for name, score in scores.items() if score.groups or group == "all"}
        found = {name: score.measured(chosen.numpy(), resamples) for name, score in wanted.items()}
        result[group] = {name: value for name, value in found.items() if value is not None}
    return result
