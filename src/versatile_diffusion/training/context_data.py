"""What the context encoders train and are measured on, all on the device."""

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

from versatile_diffusion.data.emoji.reader import EmojiSet
from versatile_diffusion.modalities.dual_encoder import CONCEPT, TOKENIZER
from versatile_diffusion.training.teacher import teach, teacher_words

HELD_OUT = ("pair-val", "pair-test", "concept-test")


@dataclass(frozen=True)
class HeldOut:
    """One split to measure on; concepts index `names`, the labels that pictures are matched with."""

    pictures: UInt8[Tensor, "n h w 3"]
    concepts: Int[Tensor, "n"]
    styles: Int[Tensor, "n"]
    no_sibling: Tensor
    names: list[str]


@dataclass(frozen=True)
class ContextData:
    """Training pictures, texts as token ids (padded with 0), and what the teacher says about them.

    Concepts are numbered among the training concepts only; `rows` starts their table.
    """

    tokenizer: Tokenizer
    pictures: UInt8[Tensor, "n h w 3"]
    concepts: Int[Tensor, "n"]
    styles: Int[Tensor, "n"]
    subgroups: Int[Tensor, "n"]
    caption_starts: Int[Tensor, "n+1"]
    caption_ids: Int[Tensor, "c l"]
    caption_styles: Int[Tensor, "c"]
    label_ids: Int[Tensor, "k l"]
    phrase_ids: Int[Tensor, "p l"]
    phrase_styles: Int[Tensor, "p"]
    word_ids: Int[Tensor, "w l"]
    word_targets: Float[Tensor, "w 384"]
    rows: Float[Tensor, "k c"]
    style_names: list[str]
    style_phrases: list[list[str]]
    subgroup_count: int
    held_out: dict[str, HeldOut]

    @property
    def no_style(self) -> int:
        """The style of a text that names none."""
        return len(self.style_names)

    def captions_of(self, rows: Int[Tensor, "b"], generator: torch.Generator) -> Int[Tensor, "b"]:
        """One caption by chance for each picture."""
        start, end = self.caption_starts[rows], self.caption_starts[rows + 1]
        chance = torch.rand(len(rows), generator=generator, device=rows.device)
        return start + (chance * (end - start)).long()

    @classmethod
    def load(cls, folder: Path, cache: Path, limit: int, device: torch.device, words: int = 14000) -> ContextData:
        """Reads the set and asks the teacher (embeddings are kept beside `cache`).

        Raises:
            ValueError: the set is incomplete, or the teacher is not installed.
        """
        train = EmojiSet.load(folder, "train")
        tokenizer = Tokenizer.from_file(str(Path(folder) / TOKENIZER))
        known = sorted(set(train.concepts.tolist()))
        place = torch.full((len(train.concept_names),), -1)
        place[known] = torch.arange(len(known))
        names = [train.concept_names[i] for i in known]
        keywords = [train.keywords[i] for i in known]
        groups = sorted(set(train.subgroups))
        captions = [caption for captions in train.captions for caption in captions]
        counts = torch.tensor([0, *map(len, train.captions)])
        phrases = [phrase for phrases in train.style_phrases for phrase in phrases]
        vocabulary = sorted({*names, *(w for ws in keywords for w in ws), *teacher_words(words)})

        def ids(texts: Sequence[str]) -> Tensor:
            return token_ids(tokenizer, texts, limit).to(device)

        concepts = torch.from_numpy(train.concepts)
        return cls(
            tokenizer=tokenizer,
            pictures=torch.from_numpy(train.pictures).to(device),
            concepts=place[concepts].to(device),
            styles=torch.from_numpy(train.styles).to(device),
            subgroups=torch.tensor([groups.index(g) for g in train.subgroups])[concepts].to(device),
            caption_starts=counts.cumsum(0).to(device),
            caption_ids=ids(captions),
            caption_styles=_named_styles(train).to(device),
            label_ids=ids(names),
            phrase_ids=ids(phrases),
            phrase_styles=_repeat([len(p) for p in train.style_phrases]).to(device),
            word_ids=ids(vocabulary),
            word_targets=teach(vocabulary, cache / "words").to(device),
            rows=first_rows(names, keywords, cache).to(device),
            style_names=train.style_names,
            style_phrases=train.style_phrases,
            subgroup_count=len(groups),
            held_out={split: _held_out(folder, split, place, names) for split in HELD_OUT},
        )


def token_ids(tokenizer: Tokenizer, texts: Sequence[str], limit: int) -> Int[Tensor, "n limit"]:
    """Ids of lower-cased texts as small integers, cut at `limit` and padded with 0."""
    padding = Tokenizer.from_str(tokenizer.to_str())  # a copy: the encoder's own stays without padding
    padding.enable_truncation(limit)
    padding.enable_padding(length=limit, pad_id=0)
    parts = [texts[start : start + 10000] for start in range(0, len(texts), 10000)]
    lower = ([text.lower() for text in part] for part in parts)
    rows = [np.array([e.ids for e in padding.encode_batch_fast(part)], dtype=np.int16) for part in lower]
    return torch.from_numpy(np.concatenate(rows))


def first_rows(names: Sequence[str], keywords: Sequence[Sequence[str]], cache: Path) -> Float[Tensor, "k c"]:
    """Rows that start the table of concepts: what the teacher says of "label" and "label: keywords", in the directions
    in which that varies most."""
    told = [f"{name}: {', '.join(words)}" for name, words in zip(names, keywords, strict=True)]
    known = (teach(names, cache / "labels") + teach(told, cache / "keywords")) / 2
    centred = known - known.mean(dim=0)
    directions = torch.linalg.svd(centred, full_matrices=False).Vh[:CONCEPT]
    rows = F.normalize(centred @ directions.T, dim=1)
    return F.pad(rows, (0, CONCEPT - rows.shape[1]))


def _named_styles(train: EmojiSet) -> Tensor:
    """For every caption the style that it names, or one past the last."""
    none = len(train.style_names)
    return torch.tensor(
        [
            style if any(phrase in caption for phrase in train.style_phrases[style]) else none
            for style, captions in zip(train.styles.tolist(), train.captions, strict=True)
            for caption in captions
        ]
    )


def _repeat(counts: Sequence[int]) -> Tensor:
    return torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))


def _held_out(folder: Path, split: str, place: Tensor, names: list[str]) -> HeldOut:
    """A split whose concepts are numbered as in training, or among themselves where training has none of them."""
    data = EmojiSet.load(folder, split)
    concepts = place[torch.from_numpy(data.concepts)]
    if split.startswith("concept"):
        own = sorted(set(data.concepts.tolist()))
        names = [data.concept_names[i] for i in own]
        concepts = torch.tensor([own.index(i) for i in data.concepts.tolist()])
    return HeldOut(
        pictures=torch.from_numpy(data.pictures),
        concepts=concepts,
        styles=torch.from_numpy(data.styles),
        no_sibling=torch.from_numpy(data.no_sibling),
        names=names,
    )
