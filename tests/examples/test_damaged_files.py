"""Damaged files of every kind are read without a traceback, a hang, or much memory."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def damaged_files(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("damaged_files")


def test_some_mutants_of_every_kind(damaged_files: ModuleType) -> None:
    table, faults = damaged_files.campaign(seed=1, count=16)
    assert faults == []
    assert sum(table["all"].values()) == 16
    assert len(table) == 9


@pytest.mark.campaign
def test_a_minute_of_mutants(damaged_files: ModuleType) -> None:
    table, faults = damaged_files.campaign(seed=2, count=10**6, seconds=60)
    assert faults == []
    assert set(table["all"]) == {"loaded", "refused"}
