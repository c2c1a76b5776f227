"""Repeated words: a text decoder likes to say things twice."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

_OPENING = "([{"  # stand before a word
_CLOSING = "?!.,:;}])"  # stand after a word


@dataclass(frozen=True)
class _Piece:
    """A word, or one punctuation mark that clings to its neighbour on the left or on the right."""

    text: str
    clings_left: bool = False
    clings_right: bool = False


def remove_duplicate_word(text: str) -> str:
    """Says once what follows itself: words, then phrases of two words, three words, and so on.

    Punctuation at the ends of words counts as words of its own, so that "big, big, bad wolf" becomes "big, bad wolf".
    White space comes out as single spaces, none at the ends.
    """
    pieces = [piece for word in text.split() for piece in _split(word)]
    length = 1
    while length <= len(pieces) // 2:
        pieces = _without_repeats(pieces, length)
        length += 1
    return _join(pieces)


def merge_same_adjacent_word(text: str) -> str:
    """Says a word once where it follows itself, as in 2022: words are what white space divides, with their stops."""
    return " ".join(word for word, _ in groupby(text.split()))


def _split(word: str) -> list[_Piece]:
    """The word and the marks around it."""
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
    """Drops every run of `length` pieces that equals the run right before it."""
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
