"""The walks in docs/architecture.md are what runs, hop by hop."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import build_tiny_pipeline

from tests.cli import shell

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "versatile_diffusion"
HOP = re.compile(r"^\d+\. `([\w/]+\.py)`: `([\w.]+)`", re.MULTILINE)
MOST = 15


def walk(heading: str) -> list[tuple[str, str]]:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    return HOP.findall(page.split(f"## {heading}\n")[1].split("\n## ")[0])


def called(work: Callable[[], Any], wanted: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those of the wanted functions that `work` enters, in the order of their first calls."""
    homes = {str(SOURCE / file): file for file, _ in wanted}
    found: dict[tuple[str, str], None] = {}

    def profile(frame: Any, event: str, _: Any) -> None:
        if event == "call" and (file := homes.get(frame.f_code.co_filename)):
            found.setdefault((file, frame.f_code.co_qualname))

    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
    return [hop for hop in found if hop in wanted]


def test_the_walk_of_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    build_tiny_pipeline().save_pretrained("model")
    hops = walk("The walk of a command")
    assert len(hops) <= MOST
    line = "versatile text-to-image apple --model model --steps 2 --out out"
    answers: list[shell.Done] = []
    assert called(lambda: answers.append(shell.run(line)), hops) == hops
    assert answers[0].code == 0, answers[0].err
