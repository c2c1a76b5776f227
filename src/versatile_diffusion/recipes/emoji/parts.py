"""Training and evaluation data for the emoji model's parts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor

from versatile_diffusion.modalities.encoders.dual import TOKENIZER
from versatile_diffusion.recipes.emoji.data.manifest import Manifest
from versatile_diffusion.recipes.emoji.data.reader import EmojiSet
from versatile_diffusion.recipes.emoji.data.shards import read_shard
from versatile_diffusion.training.parts.context_data import ContextData, RetrievalSplit, first_rows, token_ids
from versatile_diffusion.training.parts.teacher import teach, teacher_words
from versatile_diffusion.training.parts.text_codec import CaptionCorpus

HELD_OUT = ("pair-val", "pair-test", "concept-test")
"""Splits for evaluating encoders and the judge."""


def images(folder: Path, *splits: str) -> dict[str, Any]:
    """Return the images of each split, uint8 (N, height, width, 3)."""
    return {split: EmojiSet.load(folder, split).pictures for split in splits}


def captions(folder: Path) -> CaptionCorpus:
    """Return the captions and concept names of the training split, and held-out captions."""
    manifest = Manifest.read(folder)

    def texts(split: str) -> list[str]:  # without decoding the images
        samples = (sample for name in manifest.shards[split] for sample in read_shard(folder / name))
        return [caption for sample in samples for caption in sample.captions]

    concepts = [row for row in manifest.concepts if row["part"] == "train"]
    return CaptionCorpus(
        Tokenizer.from_file(str(folder / TOKENIZER)),
        texts("train"),
        [word for row in concepts for word in (row["label"], *row["keywords"])],
        {split: texts(split) for split in ("pair-val", "concept-val")},
    )


def context_data(folder: Path, cache: Path, limit: int, device: torch.device, words: int = 14000) -> ContextData:
    """Load the set and compute teacher embeddings (cached beside `cache`).

    Raises:
        ValueError: an incomplete set, or a missing teacher.
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
    return ContextData(
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


def _named_styles(train: EmojiSet) -> Tensor:
    """Return the index of the style named in each caption; one past the last if none."""
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


def _held_out(folder: Path, split: str, place: Tensor, names: list[str]) -> RetrievalSplit:
    """Return a split with the concept indices of training, or its own if training has none of them."""
    data = EmojiSet.load(folder, split)
    concepts = place[torch.from_numpy(data.concepts)]
    if split.startswith("concept"):
        own = sorted(set(data.concepts.tolist()))
        names = [data.concept_names[i] for i in own]
        concepts = torch.tensor([own.index(i) for i in data.concepts.tolist()])
    return RetrievalSplit(
        pictures=torch.from_numpy(data.pictures),
        concepts=concepts,
        styles=torch.from_numpy(data.styles),
        no_sibling=torch.from_numpy(data.no_sibling),
        names=names,
    )
