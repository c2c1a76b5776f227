"""Optimus as a codec: tokens, repeated words, writing in batch, saving."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_optimus, tiny_tokenizer
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from versatile_diffusion.modalities.text.optimus import Optimus, SpecialIds, Tokenization, remove_duplicate_word
from versatile_diffusion.modalities.text.optimus.generate import FILLER, Sampling, filter_logits, generate
from versatile_diffusion.modalities.text.optimus.tokens import official_tokenizers

TEXTS = ["a red apple", "the small blue house", "cat"]


@pytest.fixture(scope="module")
def optimus() -> Optimus:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = tiny_optimus(tiny_tokenizer()).eval()
        for weight in model.parameters():  # fresh weights all but ignore the latent
            torch.nn.init.normal_(weight, std=0.4)
    return model


def generators(count: int, first: int = 0) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(first + k) for k in range(count)]


def test_latents_do_not_depend_on_the_batch(optimus: Optimus) -> None:
    together = optimus.encode(TEXTS)
    assert together.shape == (3, *optimus.latent_shape())
    alone = torch.cat([optimus.encode([text]) for text in TEXTS])
    torch.testing.assert_close(together, alone)


def test_posterior_is_sampled_only_with_generators(optimus: Optimus) -> None:
    mean, first = optimus.encode(TEXTS), optimus.encode(TEXTS, generators(3))
    assert torch.equal(mean, optimus.encode(TEXTS))
    assert torch.equal(first, optimus.encode(TEXTS, generators(3)))
    assert not torch.allclose(mean, first)


def test_latents_are_normalised() -> None:
    model = tiny_optimus(tiny_tokenizer()).eval()
    plain = model.encode(TEXTS)
    model.latent_mean.fill_(0.5)
    model.latent_std.fill_(2.0)
    torch.testing.assert_close(model.encode(TEXTS), (plain - 0.5) / 2)
    torch.testing.assert_close(model.raw(model.encode(TEXTS)), plain)


def test_cache_writes_what_whole_prefixes_say(optimus: Optimus) -> None:
    latent, special = optimus.encode(TEXTS), SpecialIds(**optimus.config.decoder_ids)
    written = generate(optimus.decoder, optimus.raw(latent), special, Sampling(0.0, max_length=10))
    for row, z in zip(written, optimus.raw(latent), strict=True):
        ids = row[row != FILLER]
        with torch.no_grad():
            guesses = optimus.decoder(ids[None, :-1], z[None]).argmax(-1)[0]
        assert torch.equal(guesses[: len(ids) - 2], ids[1:-1])
        assert ids[0] == special.begin
        assert ids[-1] == special.end


@pytest.mark.parametrize("options", [{"temperature": 1.0}, {"temperature": 2.0, "top_k": 7}, {"top_p": 0.8}])
def test_item_of_a_batch_equals_item_alone(optimus: Optimus, options: dict) -> None:
    latents = torch.randn(6, optimus.config.latent_size, generator=torch.Generator().manual_seed(1))
    together = optimus.decode(latents, generators(6), **options)
    alone = [optimus.decode(latents[k : k + 1], generators(1, k), **options)[0] for k in range(6)]
    assert together == alone
    assert together != optimus.decode(latents, generators(6, 100), **options)


def test_greedy_needs_no_generators(optimus: Optimus) -> None:
    latents = optimus.encode(TEXTS)
    assert optimus.decode(latents) == optimus.decode(latents, generators(3), temperature=0)


def test_limit_counts_begin_and_end(optimus: Optimus) -> None:
    special, latent = SpecialIds(**optimus.config.decoder_ids), optimus.encode(TEXTS)
    written = generate(optimus.decoder, latent, special, Sampling(0.0, max_length=2))
    assert written.tolist() == [[special.begin, special.end]] * 3
    assert optimus.decode(latent, max_length=2) == ["", "", ""]


def test_filters_keep_the_likeliest() -> None:
    logits = torch.tensor([[0.5, 0.25, 0.15, 0.1]]).log()
    kept = [filter_logits(logits, k, p).isfinite().sum().item() for k, p in ((2, 1.0), (0, 0.6), (0, 0.0), (9, 1.0))]
    assert kept == [2, 2, 4, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1}, "temperature is -1"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": 1.5}, r"top_p is 1\.5"),
        ({"max_length": 1}, "max_length is 1"),
        ({"max_length": 99}, "at most 15"),
        ({"generators": generators(1)}, "1 generators for 3"),
    ],
)
def test_wrong_options(optimus: Optimus, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        optimus.decode(optimus.encode(TEXTS), **options)


def test_tokenizers_travel_with_the_weights(optimus: Optimus, tmp_path: Path) -> None:
    optimus.save_pretrained(tmp_path)
    back = Optimus.from_pretrained(tmp_path)
    latents = optimus.encode(TEXTS)
    assert torch.equal(back.encode(TEXTS), latents)
    assert back.decode(latents) == optimus.decode(latents)


def test_two_tokenizers_travel_too(optimus: Optimus, tmp_path: Path) -> None:
    model = tiny_optimus(tiny_tokenizer()).set_tokenizers(tiny_tokenizer(), gpt2_like())
    model.save_pretrained(tmp_path / "text")
    back = Optimus.from_pretrained(tmp_path, subfolder="text").tokens
    assert back.encoder.to_str() == tiny_tokenizer().to_str()
    assert back.decoder.to_str() == gpt2_like().to_str()


def test_without_tokenizers(optimus: Optimus) -> None:
    model = Optimus.from_config(optimus.config)
    with pytest.raises(ValueError, match="set_tokenizers"):
        model.encode(TEXTS)


SPACE = "\u0120"
PIECES = [*"abcdefghijklmnopqrstuvwxyz.,!?'", SPACE, *(SPACE + c for c in "abcdefghijklmnopqrstuvwxyz.,!?'")]


def gpt2_like() -> Tokenizer:
    """A byte-level tokenizer of single letters without special tokens."""
    tokenizer = Tokenizer(models.BPE({piece: place for place, piece in enumerate(PIECES)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


PAD, BEGIN, END = 1000, 1001, 1002


@pytest.mark.parametrize(
    ("written", "final"),
    [
        ([BEGIN, " a", "b", END], "ab"),
        ([BEGIN, " a", " ,", " b", " !", END], "a, b!"),
        ([BEGIN, " a", " '", "s", END], "a's"),
        ([BEGIN, " a", " ", " b", END], "a b"),
        ([BEGIN, END], ""),
        ([BEGIN, " a", PAD, END], "a <PAD>"),
        ([BEGIN, ".", END], ""),
        ([BEGIN, " a", END, FILLER, FILLER], "a"),
    ],
)
def test_text_of_a_row(written: list, final: str) -> None:
    """The original's rules, which need no official vocabulary."""
    ids = [i if isinstance(i, int) else PIECES.index(i.replace(" ", SPACE)) for i in written]
    special = SpecialIds(PAD, BEGIN, END)
    assert Tokenization(gpt2_like(), gpt2_like(), special, special).text(ids) == final


def test_official_vocabularies(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\na\ncar\n##s\n[\n]\nsep\ncafé\n", encoding="utf-8")
    gpt2_like().model.save(str(tmp_path))
    encoder, decoder = official_tokenizers(tmp_path / "vocab.txt", tmp_path / "vocab.json", tmp_path / "merges.txt")
    ids = SpecialIds(0, 2, 3)
    tokens = Tokenization(encoder, decoder, ids, ids, encoder_limit=4)
    rows = tokens.for_encoder(["A Cars", "[SEP]", "Café", "z", "", "a a a a a a"])
    assert rows.tolist() == [
        [2, 4, 5, 6, 3, 0],
        [2, 7, 9, 8, 3, 0],
        [2, 10, 3, 0, 0, 0],
        [2, 1, 3, 0, 0, 0],
        [2, 3, 0, 0, 0, 0],
        [2, 4, 4, 4, 4, 3],
    ]
    assert tokens.for_encoder([]).shape == (0, 2)
    assert decoder.encode("ab").tokens == [SPACE, "a", "b"]


def test_special_tokens_of_the_small_vocabulary_are_not_written() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens([AddedToken("<s>", special=True)])
    special = SpecialIds(0, 2, 3)
    tokens = Tokenization(tokenizer, tokenizer, special, special, clean_up=False)
    assert [tokens.text(row) for row in tokens.for_decoder(["a red apple"]).tolist()] == ["a red apple"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("  a   red red apple ", "a red apple"), ("", ""), ("   ", ""), ("?!", "?!"), ("no, no, never", "no, never")],
)
def test_repeated_words(text: str, wanted: str) -> None:
    assert remove_duplicate_word(text) == wanted


@given(st.lists(st.sampled_from(["a", "b", "c", "a,", "(b)", "c."]), max_size=12).map(" ".join))
def test_nothing_is_left_to_remove(text: str) -> None:
    once = remove_duplicate_word(text)
    assert remove_duplicate_word(once) == once
    assert set(once.replace(" ", "")) <= set(text.replace(" ", ""))
