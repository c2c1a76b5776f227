"""What the benchmarks share: how a judge's answers become numbers, and where tables go."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def judging(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("judging")


def test_standing_is_the_share_of_others_that_are_less_likely(judging: ModuleType) -> None:
    scores = torch.tensor([[3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [3.0, 1.0, 2.0], [0.0, 0.0, 0.0]])
    found = judging._standing(scores, torch.tensor([0, 2, 1, -1]))
    assert found[:3].tolist() == [1, 0.5, 0]
    assert np.isnan(found[3])


def test_a_table_goes_to_its_place_on_a_page(judging: ModuleType, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- mixing -->\nold\n<!-- /mixing -->\nafter\n")
    for value in (1, 2):
        judging.write_table("mixing", {"layer": {"seen": value}}, "how", "64 pairs", page)
    assert page.read_text() == (
        "before\n<!-- mixing -->\n64 pairs\n\n| how | seen |\n|---|---:|\n| layer | 2 |\n<!-- /mixing -->\nafter\n"
    )
    with pytest.raises(ValueError, match="no place for the table"):
        judging.write_table("joint", {"layer": {"seen": 1}}, "how", "64 pairs", page)
