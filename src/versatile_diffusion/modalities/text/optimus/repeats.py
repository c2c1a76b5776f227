"""Removal of repeated words, a common artefact of text decoders."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

_OPENING = "([{"  # before a word
_CLOSING = "?!.,:;}])"  # after a word


@dataclass(frozen=True)
class _Piece:
    """A word, or a punctuation mark attached to its left or right neighbour."""

    text: str
    clings_left: bool = False
    clings_right: bool = False


def remove_duplicate_word(text: str) -> str:
    """Remove immediate repetitions of words, then of phrases of two words, three words, and so on.

    Punctuation is split from words first, so that "big, big, bad wolf" becomes "big, bad wolf". White space is
    normalised.
    """
    pieces = [piece for word in text.split() for piece in _split(word)]
    length = 1
    while length <= len(pieces) // 2:
        pieces = _without_repeats(pieces, length)
        length += 1
    return _join(pieces)


def merge_same_adjacent_word(text: str) -> str:
    """Remove immediate repetitions of whitespace-separated words, punctuation included, as in 2022."""
    return " ".join(word for word, _ in groupby(text.split()))


def _split(word: str) -> list[_Piece]:
    """Split a word into its text and surrounding marks."""
    core = word.lstrip(_OPENING)
    opening = word[: len(word) - len(core)]
    bare = core.rstrip(_CLOSING)
    closing = core[len(bare) :]
    return [
        *(_Piece(mark, clings_right=True) for mark in opening),
        *([_Piece(bare)] if bare else []),
        *(_Piece(mark, clings_left=True) for mark in closing),
    ]


def _without_repeats(pieces: list[_Piece], length: int) -> list[_Piece]:
    """Drop every run of `length` pieces that repeats the run right before it."""
    kept, at = list(pieces), 0
    while at + 2 * length <= len(kept):
        if kept[at : at + length] == kept[at + length : at + 2 * length]:
            del kept[at + length : at + 2 * length]
        else:
            at += 1
    return kept


def _join(pieces: list[_Piece]) -> str:
    text, glued = "", True
    for piece in pieces:
        text += piece.text if glued or piece.clings_left else f" {piece.text}"
        glued = piece.clings_right
    return text
