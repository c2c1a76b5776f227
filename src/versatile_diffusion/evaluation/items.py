"""Held-out items of any data set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Int
from PIL import Image
from torch import Tensor

from versatile_diffusion.evaluation.judge_network import PictureJudge

ALL = "all"
"""Group with every item, and the split of an undivided data set."""


@dataclass(frozen=True)
class Classes:
    """Class labels of items.

    Args:
        labels: concept names.
        synonyms: synonyms of the concept.
        concepts: concept indices in `Vocabulary`.
        styles: style indices.
        concept_keys, style_names: keys used by the judge.
    """

    labels: Sequence[str]
    synonyms: Sequence[Sequence[str]]
    concepts: Int[Tensor, " n"]
    styles: Int[Tensor, " n"]
    concept_keys: Sequence[str]
    style_names: Sequence[str]

    def at(self, order: Sequence[int]) -> Classes:
        """Select items by index."""
        place = torch.as_tensor(order)
        return Classes(
            [self.labels[k] for k in order],
            [self.synonyms[k] for k in order],
            self.concepts[place],
            self.styles[place],
            [self.concept_keys[k] for k in order],
            [self.style_names[k] for k in order],
        )


@dataclass(frozen=True)
class Items:
    """Held-out items.

    Args:
        given: values by modality, one per item.
        references: captions of each item.
        groups: masks of item groups to report separately; `ALL` has every item.
        classes: class labels; None if the data set has none.
    """

    given: Mapping[str, Sequence[Any]]
    references: Sequence[Sequence[str]]
    groups: Mapping[str, Bool[Tensor, " n"]]
    classes: Classes | None = None

    def __len__(self) -> int:
        return len(self.references)

    @property
    def titles(self) -> Sequence[str]:
        """Item titles: the label, or the first caption."""
        return self.classes.labels if self.classes else [captions[0] for captions in self.references]

    def at(self, order: Sequence[int]) -> Items:
        """Select items by index."""
        place = torch.as_tensor(order)
        return Items(
            {modality: [values[k] for k in order] for modality, values in self.given.items()},
            [self.references[k] for k in order],
            {name: rows[place] for name, rows in self.groups.items()},
            self.classes and self.classes.at(order),
        )


@dataclass(frozen=True)
class Vocabulary:
    """Candidate concepts and styles of encoders.

    Args:
        known: indices of the candidate concepts.
        names: names of these.
        style_phrases: phrases of each style.
    """

    known: Sequence[int]
    names: Sequence[str]
    style_phrases: Sequence[Sequence[str]]


class HeldOut(ABC):
    """A data set for evaluation.

    Attributes:
        hash: hash of its content.
        splits: splits to use by default.
        parts: all splits.
        labelled: whether items have class labels, which a judge needs.
    """

    hash: str
    labelled: bool = False
    splits: tuple[str, ...] = (ALL,)
    parts: tuple[str, ...] = (ALL,)

    @abstractmethod
    def items(self, split: str, count: int) -> Items:
        """Return `count` items of a split, evenly spaced; all if there are fewer."""

    @abstractmethod
    def images(self, split: str) -> Sequence[Image.Image]:
        """Return all images of a split, in the order of its items."""

    def vocabulary(self, split: str) -> Vocabulary | None:
        """Return the candidate classes for encoders; None without class labels."""
        return None

    def accuracy(self, judge: PictureJudge, split: str) -> dict[str, float]:
        """Return a judge's accuracies on a split's real images in per cent, by name."""
        return {}


def spread(length: int, count: int) -> list[int]:
    """Return `count` evenly spaced indices; all if there are fewer."""
    return [round(i * length / count) for i in range(count)] if count < length else list(range(length))
