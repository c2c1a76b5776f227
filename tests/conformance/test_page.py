"""The page that explains how to add a modality is about what is tested here."""

from __future__ import annotations

import tomllib
from dataclasses import fields
from pathlib import Path

from versatile_diffusion.modalities import ENTRY_POINTS, Modality

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "guides" / "add_a_modality.md").read_text(encoding="utf-8")


def test_its_example_is_the_modality_of_these_tests() -> None:
    (code,) = (block.partition("```")[0] for block in PAGE.split("```python\n")[1:])
    assert code == (Path(__file__).parent / "sound.py").read_text(encoding="utf-8"), "copy tests/conformance/sound.py"


def test_its_entry_point_is_the_one_that_is_read() -> None:
    block = PAGE.split("```toml\n")[1].partition("```")[0]
    told = tomllib.loads("\n".join(line.strip() for line in block.splitlines()))
    assert list(told["project"]["entry-points"]) == [ENTRY_POINTS]


def test_the_fields_that_it_names_are_fields() -> None:
    known = {field.name for field in fields(Modality)}
    assert {"blanks", "suffixes", "numbers", "draw", "words", "grid", "parts", "measures"} <= known
