"""The table of modalities, and how others join it."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from versatile_diffusion import modalities
from versatile_diffusion.modalities import MODALITIES, ModalityTable
from versatile_diffusion.modalities.image import IMAGE
from versatile_diffusion.modalities.modality import Late
from versatile_diffusion.modalities.text import TEXT, truncate_text


def test_records_carry_their_own_name():
    assert {name: record.name for name, record in MODALITIES.items()} == {name: name for name in MODALITIES}
    assert {"image", "text"} <= set(MODALITIES)


def test_text_is_a_str():
    assert TEXT.check("a car") == "a car"
    assert TEXT.check(TEXT.blanks["empty"]) == ""
    with pytest.raises(ValueError, match="a text must be a str, not int"):
        TEXT.check(3)


def test_others_join_by_entry_point_and_are_loaded_when_asked_for(monkeypatch):
    point = EntryPoint("sketch", "versatile_diffusion.modalities.image:IMAGE", modalities.ENTRY_POINTS)
    asked = []
    monkeypatch.setattr(modalities, "entry_points", lambda group: asked.append(group) or [point])
    table = ModalityTable(TEXT)
    assert table["text"] is TEXT
    assert not asked
    assert list(table) == ["text", "sketch"]
    assert len(table) == 2
    assert table["sketch"] is IMAGE
    assert "audio" not in table


def test_a_text_is_cut_by_words_and_where_there_are_no_spaces_by_characters() -> None:
    def fits(text: str) -> bool:
        return len(text) <= 9

    for text in ("a b c", "one two three", "one  two three", "tiny elephantine", "elephantine tiny", ""):
        words, expected = text.split(), text
        while words and not fits(expected):  # as it was defined at first
            words.pop()
            expected = " ".join(words)
        assert truncate_text(text, fits) == (expected or text.split()[0][:9] if text.strip() else expected)
    assert truncate_text("猫が窓のそばに座っている", fits) == "猫が窓のそばに座っ"
    calls = []
    truncate_text("word " * 100_000, lambda text: calls.append(1) or len(text) < 40)
    assert len(calls) < 40


def test_every_function_that_a_record_names_is_there() -> None:
    named = [
        (name, field, late)
        for name, record in MODALITIES.items()
        for field, value in vars(record).items()
        for late in (value.values() if isinstance(value, dict) else [value])
        if isinstance(late, Late)
    ]
    assert {field for _, field, _ in named} > {"check", "said", "read", "forms"}
    missing = [(name, field) for name, field, late in named if not callable(late.__wrapped__)]
    assert missing == []
