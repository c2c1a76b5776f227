"""Optimus' tokenizers against ids made with the published vocabularies.

These are not at hand. What the reference tells of them, words that are one token, is put into vocabularies in which all
other tokens are missing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from tests.parity.conftest import read_json
from versatile_diffusion.modalities.text.optimus.tokens import SpecialIds, Tokenization, official_tokenizers

UNKNOWN = 100  # in BERT's vocabularies


@pytest.fixture(scope="module")
def about(reference: Path) -> dict[str, Any]:
    return read_json(reference / "optimus" / "tokens.json")


def tokenizers(
    folder: Path, bert: Mapping[str, int] | None = None, gpt2: Mapping[str, int] | None = None
) -> tuple[Tokenizer, Tokenizer]:
    """The official pair with these tokens in their places."""
    names = {number: word for word, number in (bert or {"[UNK]": UNKNOWN}).items()}
    lines = [names.get(number, f"[unused{number}]") for number in range(max(names) + 1)]
    files = [folder / name for name in ("bert.txt", "gpt2.json", "gpt2.txt")]
    for file, text in zip(files, ("\n".join(lines), json.dumps(gpt2 or {}), "#version: 0.2\n"), strict=True):
        file.write_text(text, encoding="utf-8")
    return official_tokenizers(*files)


def words_of(tokenizer: Tokenizer, text: str) -> list[str]:
    plain = tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer else text
    return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(plain)]


def single_tokens(rows: Iterator[tuple[Sequence[str], Sequence[int]]]) -> dict[str, int]:
    """Words with their ids, from rows of as many ids as words; a word has the same id wherever it stands."""
    known: dict[str, int] = {}
    for words, ids in rows:
        if len(words) == len(ids):
            for word, number in zip(words, ids, strict=True):
                assert known.setdefault(word, number) == number, word
    return known


def fits(words: Sequence[str], ids: Sequence[int], known: Mapping[str, int]) -> bool:
    """Whether ids can be those of the words: one for each known word, one or more for each other."""
    if not words or not ids:
        return not words and not ids
    word, *rest = words
    if word in known:
        return ids[0] == known[word] and fits(rest, ids[1:], known)
    return any(fits(rest, ids[count:], known) for count in range(1, len(ids) - len(rest) + 1))


def test_encoder(about: dict[str, Any], tmp_path: Path) -> None:
    encoder, _ = tokenizers(tmp_path)
    rows = {row["text"]: row["ids"] for row in about["encoder_bert_cased_lowercased"]}
    known = single_tokens((words_of(encoder, text), ids[1:-1]) for text, ids in rows.items())
    most = about["max_tokens_before_cls_sep"]
    for text, ids in rows.items():
        assert len(ids) == most + 2 or fits(words_of(encoder, text), ids[1:-1], known), text
    begin, end = ids[0], ids[-1]
    vocabulary = {word: number for word, number in known.items() if number != UNKNOWN} | {"[UNK]": UNKNOWN}
    encoder, decoder = tokenizers(tmp_path, vocabulary)
    tokens = Tokenization(encoder, decoder, SpecialIds(0, begin, end), SpecialIds(0, 1, 2), most)
    whole = [text for text in rows if set(words_of(encoder, text)) <= known.keys()]
    assert len(whole) > 3
    for text in whole:
        assert tokens.for_encoder([text])[0].tolist() == rows[text], text


def test_decoder(about: dict[str, Any], tmp_path: Path) -> None:
    _, decoder = tokenizers(tmp_path)
    special = SpecialIds(*(about["special"][name] for name in ("pad", "bos", "eos")))
    rows = about["decoder_gpt2"]
    sources = [(row["source"], row["ids"][1:-1]) for row in rows if row["source"] is not None]
    known = single_tokens((words_of(decoder, source), ids) for source, ids in sources)
    encoder, decoder = tokenizers(tmp_path, gpt2=known)
    tokens = Tokenization(encoder, decoder, special, special)
    readable = {*known.values(), special.pad, special.begin, special.end}
    whole = [row for row in rows if set(row["ids"]) <= readable]
    assert len(whole) > 3
    for row in whole:
        assert tokens.text(row["ids"]) == row["final"], row
