"""What a run tells before it trains."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from versatile_diffusion.recipes.run import MOST_LINES, headlines
from versatile_diffusion.training.engine.config import LoopSettings

STARTED = {"data": "/data/emoji", "device": "cpu", "processes": 1, "threads": 2}


def told(loop: LoopSettings, **more: object) -> list[str]:
    resolved = {"objective": "own-data", "settings": "emoji", **more, "loop": asdict(loop), "options": {"lora": 4}}
    return headlines(resolved, STARTED, Path("run"))


def test_ten_lines_of_settings_and_where_all_are() -> None:
    more = {"batch": 16, "nested": {"a": 1}, "note": "x" * 500, **dict.fromkeys("abcdef", 1)}
    lines = told(LoopSettings(steps=300, minutes=5), **more)
    assert len(lines) == MOST_LINES
    assert lines[-1] == f"all settings: {Path('run') / 'settings.json'}"
    text = "\n".join(lines)
    for said in (
        "own-data (emoji)",
        "/data/emoji",
        "cpu, 1 process(es), 2 thread(s)",
        "300 steps, 5 minutes of it now",
    ):
        assert said in text
    assert "batch: 16" in text
    assert "nested" not in text
    assert max(map(len, lines)) < 110


@pytest.mark.parametrize(("by_clock", "said"), [(None, "length: 300 steps"), (30.0, "length: 30 minutes")])
def test_a_run_ends_by_steps_or_by_the_clock(by_clock: float | None, said: str) -> None:
    assert any(line.startswith(said) for line in told(LoopSettings(steps=300, by_clock=by_clock)))
