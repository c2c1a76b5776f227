"""Training and evaluation data of the context encoders, all on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from tokenizers import Tokenizer
from torch import Tensor

from versatile_diffusion.modalities.encoders.dual import CONCEPT
from versatile_diffusion.numeric import unit
from versatile_diffusion.training.parts.teacher import teach


@dataclass(frozen=True)
class RetrievalSplit:
    """An evaluation split; `concepts` are indices into `names`, the labels to match images with."""

    pictures: UInt8[Tensor, "n h w 3"]
    concepts: Int[Tensor, " n"]
    styles: Int[Tensor, " n"]
    no_sibling: Tensor
    names: list[str]


@dataclass(frozen=True)
class ContextData:
    """Training images, texts as token ids (padded with 0), and embeddings from the teacher.

    Concepts are numbered among the training concepts only; `rows` initialises their table.
    """

    tokenizer: Tokenizer
    pictures: UInt8[Tensor, "n h w 3"]
    concepts: Int[Tensor, " n"]
    styles: Int[Tensor, " n"]
    subgroups: Int[Tensor, " n"]
    caption_starts: Int[Tensor, " n+1"]
    caption_ids: Int[Tensor, "c l"]
    caption_styles: Int[Tensor, " c"]
    label_ids: Int[Tensor, "k l"]
    phrase_ids: Int[Tensor, "p l"]
    phrase_styles: Int[Tensor, " p"]
    word_ids: Int[Tensor, "w l"]
    word_targets: Float[Tensor, "w 384"]
    rows: Float[Tensor, "k c"]
    style_names: list[str]
    style_phrases: list[list[str]]
    subgroup_count: int
    held_out: dict[str, RetrievalSplit]

    @property
    def no_style(self) -> int:
        """Style index of texts without a style."""
        return len(self.style_names)

    def captions_of(self, rows: Int[Tensor, " b"], generator: torch.Generator) -> Int[Tensor, " b"]:
        """A random caption for each image."""
        start, end = self.caption_starts[rows], self.caption_starts[rows + 1]
        chance = torch.rand(len(rows), generator=generator, device=rows.device)
        return start + (chance * (end - start)).long()


def token_ids(tokenizer: Tokenizer, texts: Sequence[str], limit: int) -> Int[Tensor, "n limit"]:
    """Token ids of lower-cased texts as int16, truncated at `limit` and padded with 0."""
    padding = Tokenizer.from_str(tokenizer.to_str())  # a copy: the encoder's tokenizer must not pad
    padding.enable_truncation(limit)
    padding.enable_padding(length=limit, pad_id=0)
    parts = [texts[start : start + 10000] for start in range(0, len(texts), 10000)]
    lower = ([text.lower() for text in part] for part in parts)
    rows = [np.array([e.ids for e in padding.encode_batch_fast(part)], dtype=np.int16) for part in lower]
    return torch.from_numpy(np.concatenate(rows))


def first_rows(names: Sequence[str], keywords: Sequence[Sequence[str]], cache: Path) -> Float[Tensor, "k c"]:
    """Initial rows of the concept table: the teacher's embeddings of "label" and "label: keywords", projected onto
    their principal directions."""
    described = [f"{name}: {', '.join(words)}" for name, words in zip(names, keywords, strict=True)]
    known = (teach(names, cache / "labels") + teach(described, cache / "keywords")) / 2
    centred = known - known.mean(dim=0)
    directions = torch.linalg.svd(centred, full_matrices=False).Vh[:CONCEPT]
    rows = unit(centred @ directions.T, dim=1)
    return F.pad(rows, (0, CONCEPT - rows.shape[1]))
