"""Recognition of concepts and styles: by a judge, and by a pair of context encoders.

The judge is independent of the evaluated models. Encoders may be those used for guidance; then the rates measure
whether a flow follows its conditions, not image quality. Both are reported with their rates on real images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from versatile_diffusion.evaluation.items import Classes, Vocabulary
from versatile_diffusion.evaluation.judge_network import PictureJudge
from versatile_diffusion.evaluation.networks import BATCH, Encoders, pixels
from versatile_diffusion.modalities.encoders.dual import DualImageEncoder, DualTextEncoder
from versatile_diffusion.numeric import unit

Hits = dict[str, Float[np.ndarray, " n"]]
"""By name, 1 for each recognised value, else 0; NaN if undefined."""


def classify(judge: PictureJudge, pictures: Sequence[Image.Image], classes: Classes) -> Hits:
    """Classify images by the judge; `pictures` are of one size, several per item, adjacent."""
    with torch.no_grad():
        parts = [judge(pixels(pictures[k : k + BATCH], judge.device)) for k in range(0, len(pictures), BATCH)]
    order = torch.cat([part.likeliest(5) for part in parts]).cpu()
    style = torch.cat([part.style for part in parts]).argmax(1).cpu()
    wanted = _places(judge.config.concepts, classes.concept_keys, len(pictures))
    hit, unknown = order == wanted[:, None], wanted < 0
    refused = torch.cat([part.refused for part in parts]).cpu()
    return {
        "judge/concept top-1": np.where(unknown, np.nan, hit[:, 0]),
        "judge/concept top-5": np.where(unknown, np.nan, hit.any(1)),
        "judge/refused": np.where(unknown, np.nan, refused),
        "judge/style": (style == _places(judge.config.styles, classes.style_names, len(pictures))).double().numpy(),
    }


def _places(known: Sequence[str], wanted: Sequence[str], count: int) -> Tensor:
    """Return the index of each name among the known ones (-1 if unknown), each repeated to `count` in total."""
    place = {name: row for row, name in enumerate(known)}
    return torch.tensor([place.get(name, -1) for name in wanted]).repeat_interleave(count // len(wanted))


@dataclass(frozen=True)
class EncoderJudge:
    """Zero-shot classifier of concepts and styles in the encoders' shared space.

    Args:
        encoders: encoders by modality.
        known: indices of the candidate concepts.
        concepts, styles: their vectors, from labels and style phrases.
    """

    encoders: Encoders
    known: Tensor
    concepts: Float[Tensor, "k d"]
    styles: Float[Tensor, "s e"]

    @classmethod
    def of(cls, encoders: Encoders, vocabulary: Vocabulary) -> EncoderJudge:
        """Build the classifier for a vocabulary."""
        styles = [vectors(encoders["text"], phrases)[1].mean(0) for phrases in vocabulary.style_phrases]
        concepts, _ = vectors(encoders["text"], vocabulary.names)
        return cls(encoders, torch.tensor(vocabulary.known), concepts, unit(torch.stack(styles), dim=-1))

    def hits(self, modality: str, values: Sequence[Any], classes: Classes) -> Hits:
        """Score whether the concept is the nearest, among the nearest five, and whether the style is the nearest, for
        encoders whose styles are those of texts."""
        concepts, styles = vectors(self.encoders[modality], values)
        copies = len(values) // len(classes.labels)
        order = self.known[(concepts @ self.concepts.T).topk(5).indices.cpu()]
        hit = order == classes.concepts.repeat_interleave(copies)[:, None]
        found = {"concept top-1": hit[:, 0], "concept top-5": hit.any(1)}
        if styles.shape[1] == self.styles.shape[1]:
            nearest = (styles @ self.styles.T).argmax(1).cpu()
            found["style"] = nearest == classes.styles.repeat_interleave(copies)
        return {f"encoders/{name}": value.double().numpy() for name, value in found.items()}


@torch.no_grad()
def vectors(encoder: Any, values: Sequence[Any]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n e"]]:
    """Return unit vectors of content and style; identical if the encoder does not separate them. Long texts are
    truncated."""
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
