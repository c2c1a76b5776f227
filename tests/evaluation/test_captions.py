"""Caption metrics against values of pycocoevalcap 1.2 (words without punctuation) and of papers."""

from __future__ import annotations

import numpy as np
import pytest

from versatile_diffusion.evaluation.captions import bleu, bleu_counts, cider_d, names, rouge_l, words

TEXTS = ["a red apple in flat style", "two small dogs in a park", "house building, flat style drawing"]
REFERENCES = [
    ["a red apple in noto style", "apple, food", "red apple"],
    ["two dogs playing in the green park", "dog, animal"],
    ["a small house with a red roof", "house building, flat style", "an icon for house and home"],
]


def test_words() -> None:
    assert words("A man's hat (red, Blue): 2-D!") == ["a", "man's", "hat", "red", "blue", "2", "d"]


def test_cider_d_as_the_official_one() -> None:
    assert cider_d(TEXTS, REFERENCES) == pytest.approx(
        [2.7004534254370856, 0.7550856343451463, 3.023642349568939], rel=1e-10
    )
    assert cider_d(["a b c d e", "v w x y z"], [["a b c d e"], ["v w x y z"]]) == pytest.approx([10, 10])
    assert cider_d(["v w", "a"], [["a b"], ["v w"]]) == pytest.approx([0, 0])


def test_bleu_as_the_official_one() -> None:
    counts = np.sum([bleu_counts(text, row) for text, row in zip(TEXTS, REFERENCES, strict=True)], axis=0)
    assert counts.tolist() == [13, 6, 4, 2, 17, 14, 11, 8, 17, 17]
    expected = [0.7647058822629758, 0.5724780278366416, 0.4921093884180749, 0.415461935543396]
    found = [bleu(counts, n) for n in (1, 2, 3, 4)]
    assert found == pytest.approx(expected, rel=1e-9)  # theirs adds a small number


def test_bleu_clips_repeated_words_and_punishes_brevity() -> None:
    clipped = bleu_counts("the the the the the the the", ["the cat is on the mat", "there is a cat on the mat"])
    assert bleu(clipped, 1) == pytest.approx(2 / 7)
    assert bleu(bleu_counts("a b", ["a b c d"]), 2) == pytest.approx(np.exp(1 - 4 / 2))
    assert bleu(bleu_counts("", ["a"])) == 0


def test_rouge_l_as_the_official_one() -> None:
    expected = [0.9242424242424241, 0.6069651741293532, 0.9070631970260222]
    assert [rouge_l(t, row) for t, row in zip(TEXTS, REFERENCES, strict=True)] == pytest.approx(expected, rel=1e-10)
    assert rouge_l("", ["a"]) == rouge_l("b", ["a"]) == 0


def test_a_name_is_found_as_whole_words() -> None:
    assert names("A red apple, in noto style", "red apple")
    assert names("red: apple", "Red Apple")
    assert not names("pineapple", "apple")
    assert not names("apple red", "red apple")
    assert not names("anything", "!")
