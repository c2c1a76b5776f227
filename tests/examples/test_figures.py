"""The figures of docs/architecture.md are those that the code draws now."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def test_figures_are_fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    monkeypatch.syspath_prepend(ROOT / "scripts")
    for file in importlib.import_module("draw_plan").draw(tmp_path):
        stored = (ROOT / "docs" / "images" / file.name).read_text(encoding="utf-8")
        writer = re.search(r"Matplotlib v([\w.]+)", stored)
        if writer is not None and writer[1] != matplotlib.__version__:
            pytest.skip(f"drawn by matplotlib {writer[1]}, here is {matplotlib.__version__}")
        assert file.read_text(encoding="utf-8") == stored, "run `python scripts/draw_plan.py`"
