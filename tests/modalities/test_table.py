"""The table of modalities, and how others join it."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest

from versatile_diffusion import modalities
from versatile_diffusion.modalities import MODALITIES, ModalityTable
from versatile_diffusion.modalities.image import IMAGE
from versatile_diffusion.modalities.text import TEXT


def test_records_carry_their_own_name():
    assert {name: record.name for name, record in MODALITIES.items()} == {name: name for name in MODALITIES}
    assert {"image", "text"} <= set(MODALITIES)


def test_text_is_a_str():
    assert TEXT.check("a car") == "a car"
    assert TEXT.check(TEXT.blanks["empty"]) == ""
    with pytest.raises(ValueError, match="a text is a str, not int"):
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
