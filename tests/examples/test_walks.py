"""The walks in docs/architecture.md are what runs, hop by hop."""

from __future__ import annotations

import asyncio
import re
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tiny import build_tiny_pipeline

from tests.cli import shell

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "versatile_diffusion"
HOP = re.compile(r"^\d+\. `([\w/]+\.py)`: `([\w.<>]+)`", re.MULTILINE)
MOST = 15


def walk(heading: str) -> list[tuple[str, str]]:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    return HOP.findall(page.split(f"## {heading}\n")[1].split("\n## ")[0])


def called(work: Callable[[], Any], wanted: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Those of the wanted functions that `work` enters, in any thread that it starts, in the order of first calls."""
    homes = {str(SOURCE / file): file for file, _ in wanted}
    found: dict[tuple[str, str], None] = {}

    def profile(frame: Any, event: str, _: Any) -> None:
        if event == "call" and (file := homes.get(frame.f_code.co_filename)):
            found.setdefault((file, frame.f_code.co_qualname))

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
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


def test_the_walk_of_a_studio_click(tmp_path: Path) -> None:
    gr = pytest.importorskip("gradio", reason="gradio is not installed (extra 'ui')")
    from versatile_diffusion.ui.page.desk import Desk
    from versatile_diffusion.ui.page.page import Studio, Who, draw, forms, serve
    from versatile_diffusion.ui.page.shelf import Shelves

    pipe, hops, shown = build_tiny_pipeline(), walk("The walk of a studio click"), []

    def click() -> None:
        studio = Studio(Desk(pipe), Shelves(tmp_path, "tiny", 9), "tiny")
        form = next(form for form in forms(studio) if form.name == "text-to-image")
        with gr.Blocks(analytics_enabled=False):
            tab = draw(studio, form)
        values = {name: component.value for name, component in tab.inputs.items()}

        async def follow() -> None:
            who = Who("somebody", form.name, None, "somewhere")
            async for update in serve(studio, tab, who, {**values, "text": "a", "steps": 2, "count": 1}):
                shown.append(update)

        with ThreadPoolExecutor(1) as own:  # a browser test before may have left an event loop in this thread
            own.submit(asyncio.run, follow()).result()
        studio.desk.close()

    assert len(hops) <= MOST
    assert called(click, hops) == hops
    assert 'class="stage done"' in shown[-1][0]
