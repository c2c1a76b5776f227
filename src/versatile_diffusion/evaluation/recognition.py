"""Which concept and which style is recognised: by a judge of pictures, and by a pair of context encoders.

The judge is independent of every model. Encoders may be those that guided the generation: then the rates say whether a
flow does what its guidance asks, not how good a picture looks. Beside both stands what they say of the real pictures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from versatile_diffusion.data.emoji.reader import EmojiSet
from versatile_diffusion.evaluation.networks import BATCH, Encoders, pixels
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.modalities.dual_encoder import DualImageEncoder, DualTextEncoder
from versatile_diffusion.training.judge import PictureJudge

Hits = dict[str, Float[np.ndarray, " n"]]
"""Per name, 1 for each value that is recognised and 0 for each other; NaN where it could not be."""


@dataclass(frozen=True)
class Items:
    """Held-out items to generate from: what they show, what each modality is given, and groups to report apart.

    `references` are an item's captions, `synonyms` the other names of its concept.
    """

    labels: list[str]
    concepts: Tensor
    styles: Tensor
    concept_keys: list[str]
    style_names: list[str]
    given: Mapping[str, list[Any]]
    references: list[list[str]]
    synonyms: list[list[str]]
    groups: Mapping[str, Bool[Tensor, " n"]]

    @classmethod
    def of(cls, data: EmojiSet, count: int) -> Items:
        """`count` items, spread evenly over the split; texts are "label, style phrase"."""
        rows = spread(len(data), count)
        concepts = data.concepts[rows]
        groups = {"all": torch.ones(len(rows), dtype=torch.bool)}
        if (alone := torch.as_tensor(data.no_sibling[rows])).any():
            groups["no sibling"] = alone
        return cls(
            labels=[data.labels[row] for row in rows],
            concepts=torch.as_tensor(concepts),
            styles=torch.as_tensor(data.styles[rows]),
            concept_keys=[data.concept_keys[concept] for concept in concepts],
            style_names=[data.style_names[style] for style in data.styles[rows]],
            given={
                "image": [MODALITIES["image"].check(data.pictures[row]) for row in rows],
                "text": [data.plain_captions(row)[0] for row in rows],
            },
            references=[data.captions[row] for row in rows],
            synonyms=[data.keywords[concept] for concept in concepts],
            groups=groups,
        )

    def __len__(self) -> int:
        return len(self.labels)


def spread(length: int, count: int) -> list[int]:
    """`count` rows, spread evenly; all where there are no more."""
    return [round(i * length / count) for i in range(count)] if count < length else list(range(length))


def judged(judge: PictureJudge, pictures: Sequence[Image.Image], items: Items) -> Hits:
    """What the judge recognises; `pictures` are of one size, several to an item next to each other."""
    with torch.no_grad():
        parts = [judge(pixels(pictures[k : k + BATCH], judge.device)) for k in range(0, len(pictures), BATCH)]
    order = torch.cat([part.concept for part in parts]).topk(5).indices.cpu()
    style = torch.cat([part.style for part in parts]).argmax(1).cpu()
    wanted = _places(judge.config.concepts, items.concept_keys, len(pictures))
    hit, unknown = order == wanted[:, None], wanted < 0
    return {
        "judge/concept top-1": np.where(unknown, np.nan, hit[:, 0]),
        "judge/concept top-5": np.where(unknown, np.nan, hit.any(1)),
        "judge/style": (style == _places(judge.config.styles, items.style_names, len(pictures))).double().numpy(),
    }


def _places(known: Sequence[str], wanted: Sequence[str], count: int) -> Tensor:
    """The place of each name among the known ones, -1 where it is not, each repeated to `count` in all."""
    place = {name: row for row, name in enumerate(known)}
    return torch.tensor([place.get(name, -1) for name in wanted]).repeat_interleave(count // len(wanted))


@dataclass(frozen=True)
class EncoderJudge:
    """Names concepts and styles of values of any modality, in the space that encoders share.

    Args:
        encoders: by modality.
        known: numbers of the concepts to choose among.
        concepts, styles: their vectors, from the labels and from the phrases of each style.
    """

    encoders: Encoders
    known: Tensor
    concepts: Float[Tensor, "k d"]
    styles: Float[Tensor, "s e"]

    @classmethod
    def of(cls, encoders: Encoders, data: EmojiSet) -> EncoderJudge:
        """A judge among the training concepts and those of `data`."""
        mine = set(data.concepts.tolist())
        known = [i for i, part in enumerate(data.concept_parts) if part == "train" or i in mine]
        styles = [vectors(encoders["text"], phrases)[1].mean(0) for phrases in data.style_phrases]
        concepts, _ = vectors(encoders["text"], [data.concept_names[i] for i in known])
        return cls(encoders, torch.tensor(known), concepts, F.normalize(torch.stack(styles), dim=-1))

    def hits(self, modality: str, values: Sequence[Any], items: Items) -> Hits:
        """Whose concept is the nearest, among the five nearest, and whose style is the nearest."""
        concepts, styles = vectors(self.encoders[modality], values)
        copies = len(values) // len(items)
        order = self.known[(concepts @ self.concepts.T).topk(5).indices.cpu()]
        hit = order == items.concepts.repeat_interleave(copies)[:, None]
        style = (styles @ self.styles.T).argmax(1).cpu() == items.styles.repeat_interleave(copies)
        found = {"concept top-1": hit[:, 0], "concept top-5": hit.any(1), "style": style}
        return {f"encoders/{name}": value.double().numpy() for name, value in found.items()}


@torch.no_grad()
def vectors(encoder: Any, values: Sequence[Any]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n e"]]:
    """Unit vectors of what values show and of their style; the same ones twice where an encoder does not part them. A
    text that is too long is cut."""
    parts = [_part_vectors(encoder, values[start : start + BATCH]) for start in range(0, len(values), BATCH)]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def _part_vectors(encoder: Any, values: Sequence[Any]) -> tuple[Tensor, Tensor]:
    if isinstance(encoder, DualTextEncoder):
        embedding = encoder(encoder.ids(values, cut=True)).embedding
    elif isinstance(encoder, DualImageEncoder):
        embedding = encoder.embed(values)
    else:
        return (both := encoder.compare(values).float()), both
    return embedding.concept, embedding.style
