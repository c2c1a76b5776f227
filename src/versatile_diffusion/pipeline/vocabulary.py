"""Vocabulary of models trained on few concepts: whether a prompt names any of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

_PLAIN = """
a an the of in on at to for from by as is are with without and or no my your its this that one some very
picture image photo drawing drawn painting sketch icon emoji sticker style mostly colour colours color colors
"""
_SAY_NOTHING = frozenset(_PLAIN.split())
_COLOURS = frozenset({"black", "white", "grey", "gray", "brown", "red", "orange", "yellow", "green", "teal", "blue"})
_COLOURS |= {"purple", "pink"}


def names_none(text: str, vocabulary: Mapping[str, Sequence[str]], phrases: Iterable[str] = ()) -> bool:
    """Return whether no word of the prompt is in the vocabulary. Plurals count as their singular. Colours and style
    words count only if there is nothing else.

    Args:
        text: a prompt.
        vocabulary: each concept's name, with synonyms.
        phrases: style phrases of the model.
    """
    known = {
        _singular(word) for name, others in vocabulary.items() for text in (name, *others) for word in _words(text)
    }
    asked = _words(text) - _SAY_NOTHING
    telling = asked - _COLOURS - {word for phrase in phrases for word in _words(phrase)}
    return bool(known) and known.isdisjoint(_singular(word) for word in telling or asked)


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def _singular(word: str) -> str:
    for end, instead in (("ies", "y"), ("oes", "o"), ("ches", "ch"), ("shes", "sh"), ("xes", "x"), ("ves", "f")):
        if word.endswith(end) and len(word) > 4:
            return word.removesuffix(end) + instead
    return word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 3 else word
