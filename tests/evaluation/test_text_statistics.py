"""How varied texts are, on texts of which it is known."""

from __future__ import annotations

import pytest

from versatile_diffusion.evaluation.text_statistics import distinct_n, self_similarity, statistics


def test_the_same_text_again_is_as_little_varied_as_can_be() -> None:
    same = ["a red apple"] * 4
    assert distinct_n(same, 1) == distinct_n(same, 2) == pytest.approx(1 / 4)
    assert self_similarity(same) == 1


def test_texts_without_a_word_in_common() -> None:
    assert statistics(["a red apple", "the blue car"]) == {"distinct-1": 1, "distinct-2": 1, "self-similarity": 0}


def test_what_is_shared_in_part() -> None:
    assert self_similarity(["a b", "a c"]) == pytest.approx(0.5)
    assert self_similarity(["a a b", "A"]) == pytest.approx(2 * 1 / 4)
    assert distinct_n(["a b a b"], 2) == pytest.approx(2 / 3)


def test_texts_too_short_for_a_run_of_words() -> None:
    assert distinct_n(["", "a"], 2) == 0
    assert self_similarity(["", ""]) == 1
    with pytest.raises(ValueError, match="got 1"):
        self_similarity(["alone"])
