"""Tokenization: texts to encoder ids, and decoder ids to text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch
from jaxtyping import Int
from tokenizers import Tokenizer
from torch import Tensor

from versatile_diffusion.modalities.text import read_tokenizer
from versatile_diffusion.reading import reading

_SHARED_FILE = "tokenizer.json"
_FILES = ("encoder_tokenizer.json", "decoder_tokenizer.json")

# GPT-2's tokenizer of 2019 removed the spaces before punctuation of tokenised corpora.
_CLEAN_UP = (
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" do not", " don't"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
)


@dataclass(frozen=True)
class SpecialIds:
    """Special ids: padding, begin (BERT's CLS), end (BERT's SEP)."""

    pad: int
    begin: int
    end: int


@dataclass(frozen=True)
class Tokenization:
    """Both tokenizers with their special ids, for the official vocabularies and for small ones.

    Args:
        encoder, decoder: tokenizers that add no special ids; may be the same.
        encoder_ids, decoder_ids: their special ids.
        encoder_limit: maximum number of encoded tokens, without begin and end.
        clean_up: remove spaces before punctuation, as the official decoder does.
    """

    encoder: Tokenizer
    decoder: Tokenizer
    encoder_ids: SpecialIds
    decoder_ids: SpecialIds
    encoder_limit: int = 77
    clean_up: bool = True

    def for_encoder(self, texts: Sequence[str]) -> Int[Tensor, "b t"]:
        """Return begin, the first `encoder_limit` tokens and end; padded to the longest."""
        return _pad([ids[: self.encoder_limit] for ids in _ids(self.encoder, texts)], self.encoder_ids)

    def for_decoder(self, texts: Sequence[str]) -> Int[Tensor, "b t"]:
        """Return begin, all tokens and end; padded to the longest."""
        return _pad(_ids(self.decoder, texts), self.decoder_ids)

    def text(self, ids: Sequence[int]) -> str:
        """Decode one row from begin to end; the first and last word (begin and end) are dropped.

        White space is normalised. Negative ids (padding) are skipped.
        """
        special = self.decoder_ids
        names = {special.pad: " <PAD>", special.begin: " <BOS>", special.end: " <EOS>"}
        runs = groupby((int(i) for i in ids if i >= 0), key=names.get)
        text = "".join(name * len(list(run)) if name else self.decoder.decode(list(run)) for name, run in runs)
        if self.clean_up:
            for old, new in _CLEAN_UP:
                text = text.replace(old, new)
        return " ".join(text.split()[1:-1])

    def save(self, folder: Path) -> None:
        """Write the tokenizers with the weights; a single file if both are the same."""
        if self.encoder is self.decoder:
            self.encoder.save(str(folder / _SHARED_FILE), pretty=False)
            return
        for name, tokenizer in zip(_FILES, (self.encoder, self.decoder), strict=True):
            tokenizer.save(str(folder / name), pretty=False)


def load_tokenizers(folder: Path) -> tuple[Tokenizer, Tokenizer] | None:
    """Load the tokenizers written by `Tokenization.save`; None if there are none."""
    if (folder / _SHARED_FILE).is_file():
        shared = read_tokenizer(folder / _SHARED_FILE)
        return shared, shared
    if all((folder / name).is_file() for name in _FILES):
        encoder, decoder = (read_tokenizer(folder / name) for name in _FILES)
        return encoder, decoder
    return None


def official_tokenizers(bert_vocabulary: Path, gpt2_vocabulary: Path, gpt2_merges: Path) -> tuple[Tokenizer, Tokenizer]:
    """Build the official pair from its files: BERT's cased `vocab.txt`, GPT-2's `vocab.json` and `merges.txt`.

    Texts are lower-cased for the encoder although its vocabulary is cased; accents are kept. Special tokens are not
    registered, so that "[SEP]" typed by a user is plain text.
    """
    from tokenizers import decoders, models, normalizers, pre_tokenizers

    with reading(bert_vocabulary, "BERT's vocabulary"):
        model = models.WordPiece.from_file(str(bert_vocabulary), unk_token="[UNK]")  # nosec B106 # a token
    encoder = Tokenizer(model)
    encoder.normalizer = normalizers.Sequence(
        [normalizers.Lowercase(), normalizers.BertNormalizer(lowercase=False, strip_accents=False)]
    )
    encoder.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    with reading(gpt2_vocabulary, f"GPT-2's vocabulary with {gpt2_merges.name}"):
        decoder = Tokenizer(models.BPE.from_file(str(gpt2_vocabulary), str(gpt2_merges)))
    decoder.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    decoder.decoder = decoders.ByteLevel()
    return encoder, decoder


def _ids(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    return [encoding.ids for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False)]


def _pad(rows: Sequence[Sequence[int]], special: SpecialIds) -> Tensor:
    """Add begin and end to rows, and pad them on the right."""
    padded = torch.full((len(rows), max(map(len, rows), default=0) + 2), special.pad)
    for target, row in zip(padded, rows, strict=True):
        target[: len(row) + 2] = torch.tensor([special.begin, *row, special.end])
    return padded
