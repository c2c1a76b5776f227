"""Concept table: one row per Unicode emoji sequence, with names, keywords and position in Unicode order."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_LEFT_OUT_GROUPS = frozenset({"component"})
_LEFT_OUT_SUBGROUPS = frozenset({"country-flag", "subdivision-flag"})  # 262 rare nouns, drawn alike in all styles
_INVISIBLE = frozenset({0xFE0F, 0x200D})  # variation selector and joiner: optional, depending on the vendor
_FAMILY_WORDS = frozenset({"man", "woman", "person", "boy", "girl", "child", "men", "women", "people"})
_ASCII_QUOTES = str.maketrans({"“": '"', "”": '"', "‘": "'", "’": "'"})

NAME_FILES = (
    "en/data.json",
    "en/messages.json",
    "en/shortcodes/emojibase.json",
    "meta/unicode-names.json",
    "meta/groups.json",
)
KEYWORD_FILES = ("dist/emoji-en-US.json",)
ALIAS_FILES = ("data-by-emoji.json",)
TAG_FILES = ("data/openmoji.json",)


@dataclass(frozen=True)
class Concept:
    """A concept. `key` is the code points in hexadecimal; `family` groups nearly identical concepts."""

    key: str
    index: int
    label: str
    keywords: tuple[str, ...]
    group: str
    subgroup: str
    family: str


@dataclass(frozen=True)
class Tables:
    """Raw tables of names, keywords and aliases, one per JSON file."""

    rows: list[dict[str, Any]]
    messages: dict[str, Any]
    shortcodes: dict[str, Any]
    unicode_names: dict[str, Any]
    groups: dict[str, Any]
    keywords: dict[str, Any]
    aliases: dict[str, Any]
    tags: list[dict[str, Any]]

    @classmethod
    def parse(cls, files: Mapping[str, bytes]) -> Tables:
        """Parse the tables in package members named by `*_FILES`."""
        names = (*NAME_FILES, *KEYWORD_FILES, *ALIAS_FILES, *TAG_FILES)
        data, messages, shortcodes, unicode_names, groups, keywords, aliases, tags = (
            json.loads(files[n]) for n in names
        )
        return cls(data, messages, shortcodes, unicode_names, groups, keywords, aliases, tags)


def ascii_quotes(text: str) -> str:
    """Replace typographic quotes by ASCII ones."""
    return text.translate(_ASCII_QUOTES)


def key_of_hex(hexcode: str) -> str:
    """Return the key of a hexadecimal sequence separated by `-`, `_` or spaces."""
    points = (int(part, 16) for part in re.split(r"[-_ ]", hexcode))
    return "-".join(f"{point:x}" for point in points if point not in _INVISIBLE)


def key_of_text(text: str) -> str:
    """Return the key of an emoji given as text."""
    return "-".join(f"{ord(character):x}" for character in text if ord(character) not in _INVISIBLE)


def squash(name: str) -> str:
    """Reduce a name to letters and digits, on which all vendors agree."""
    text = unicodedata.normalize("NFKD", name).lower().replace("&", "and")
    return re.sub(r"[^a-z0-9]", "", text)


def family_of(label: str, group: str) -> str:
    """Return the label without words that only vary a person."""
    if group != "people-body":
        return label
    words = re.sub(r"[:,]", " ", label.replace(" facing right", "")).split()
    kept = [word for word in words if word not in _FAMILY_WORDS]
    return " ".join(kept) or "person"


def _keywords(label: str, sources: Iterable[Iterable[str]]) -> tuple[str, ...]:
    """Return words and short phrases in order of first occurrence, without the label, emoticons and duplicates."""
    seen = {squash(label)}
    found = []
    for source in sources:
        for raw in source:
            word = ascii_quotes(raw).replace("_", " ").strip().lower()
            if not re.fullmatch(r"[a-z0-9][a-z0-9' -]*", word) or squash(word) in seen:
                continue
            seen.add(squash(word))
            found.append(word)
    return tuple(found)


def build_concepts(tables: Tables) -> tuple[Concept, ...]:
    """Return all concepts in Unicode order, without components, skin tones and country flags."""
    subgroup_words = {row["key"]: row["message"] for row in tables.messages["subgroups"]}
    emojilib = {key_of_text(emoji): words for emoji, words in tables.keywords.items()}
    openmoji = {key_of_hex(row["hexcode"]): row for row in tables.tags}
    concepts: list[Concept] = []
    for row in sorted((row for row in tables.rows if "group" in row), key=lambda row: row["order"]):
        group = tables.groups["groups"][str(row["group"])]
        subgroup = tables.groups["subgroups"][str(row["subgroup"])]
        if group in _LEFT_OUT_GROUPS or subgroup in _LEFT_OUT_SUBGROUPS:
            continue
        key, label = key_of_hex(row["hexcode"]), ascii_quotes(row["label"])
        extra = openmoji.get(key, {})
        drawn = f"{extra.get('openmoji_tags', '')},{extra.get('tags', '')}".split(",")
        keywords = _keywords(label, (row.get("tags", ()), emojilib.get(key, ()), drawn))
        family = family_of(label, group)
        concepts.append(
            Concept(key, len(concepts), label, keywords or (label,), group, subgroup_words[subgroup], family)
        )
    return tuple(concepts)


def _as_list(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def name_index(tables: Tables, concepts: Iterable[Concept], vendor_names: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Map squashed names to concept keys; the first source of a name wins.

    `vendor_names` are (name, key) pairs of icon sets with code points.
    """
    known = {concept.key: concept for concept in concepts}
    aliases = [(key_of_text(emoji), row) for emoji, row in tables.aliases.items()]
    claims = [(concept.label, concept.key) for concept in known.values()]
    claims += [(row[field], key) for key, row in aliases for field in ("name", "slug")]
    claims += [(name, key_of_hex(code)) for code, name in tables.unicode_names.items()]
    claims += list(vendor_names)
    claims += [(name, key_of_hex(code)) for code, names in tables.shortcodes.items() for name in _as_list(names)]
    index: dict[str, str] = {}
    for name, key in claims:
        if key in known and squash(name):
            index.setdefault(squash(name), key)
    return index


def match_name(name: str, index: Mapping[str, str]) -> tuple[str, int] | None:
    """Return (concept key, variant) for an icon name, or None; a suffix -1 .. -9 numbers variants."""
    if "skin-tone" in name:
        return None
    plain = re.sub(r"^flag-for-", "flag-", name)
    stem = re.fullmatch(r"(.+)-([1-9])", plain)
    candidates = [(plain, 1)] + ([(stem[1], int(stem[2]))] if stem else [])
    return next(((index[squash(word)], variant) for word, variant in candidates if squash(word) in index), None)
