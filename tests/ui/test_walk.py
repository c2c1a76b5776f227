"""A walk through every tab, on a desk and on a phone, on load and after a reload."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from studio_visitor import Visitor

from versatile_diffusion import VersatileDiffusionPipeline
from versatile_diffusion.ui.serve import Running, running

pytestmark = [pytest.mark.campaign, pytest.mark.flaky(reruns=2)]
DESK = {"viewport": {"width": 1400, "height": 900}}
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}
OUTSIDE = """(width) => [...document.querySelectorAll("button, input, select, textarea, img, .stage")].filter((one) => {
    const box = one.getBoundingClientRect();
    const scrolls = one.closest(".table-wrap, .cells, .thumbnails, .sheet, .tab-container, .overflow-menu");
    const seen = one.checkVisibility({visibilityProperty: true}) && box.width && !scrolls;
    return seen && (box.left < -1 || box.right > width + 1);
}).map((one) => one.outerHTML.slice(0, 120))"""
"""Parts of the page that stick out of the window."""


@pytest.fixture(scope="module")
def saving(tiny_pipeline: VersatileDiffusionPipeline, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with running(tiny_pipeline, "tiny", out=tmp_path_factory.mktemp("walk") / "outputs") as studio:
        yield studio


def tabs_of(studio: Running) -> list[str]:
    return [block.id for block in studio.page.blocks.values() if type(block).__name__ == "Tab"]


@pytest.mark.parametrize("screen", [DESK, PHONE], ids=["1400", "390"])
def test_every_tab_opens_and_fits(chromium: Any, saving: Running, screen: dict[str, Any], tmp_path: Path) -> None:
    width = screen["viewport"]["width"]
    visitor = Visitor(chromium.new_context(**screen).new_page(), saving.url).open()
    names = tabs_of(saving)
    assert len(names) == 13
    tabs = [block for block in saving.page.blocks.values() if type(block).__name__ == "Tab"]
    homes = {tab.parent.elem_id for tab in tabs if tab.parent is not None}
    assert homes == {"tabs"}, "a tab is inside another one"
    for load in ("first", "again"):
        for name in names:
            part = visitor.tab(name)
            visitor.page.wait_for_function("() => document.fonts.ready.then(() => true)")
            assert len(part.inner_text()) > 10, f"{name} is empty, {load} load"
            assert visitor.page.evaluate("document.documentElement.scrollWidth") <= width + 2, f"{name}, {load} load"
            assert visitor.page.evaluate(OUTSIDE, width) == [], f"{name}, {load} load"
            go = visitor.page.locator(f"#{name}-go")
            assert go.count() == 0 or go.is_visible()
        visitor.tab("text-to-image")
        visitor.example("text-to-image")
        assert visitor.said("text-to-image").startswith("4 images"), load
        visitor.pictures("text-to-image").nth(3).wait_for()
        if load == "first":
            visitor.page.reload()
            visitor.page.wait_for_selector("#text-to-image-go")
    visitor.tab("gallery")
    visitor.pictures("gallery").nth(7).wait_for()
    assert visitor.troubles == []
    assert visitor.outside == []
    visitor.page.context.close()


def test_cards_are_moved_and_strokes_undone(chromium: Any, saving: Running, sample: Path) -> None:
    visitor = Visitor(chromium.new_context(**DESK).new_page(), saving.url).open()
    blend = visitor.tab("blend")
    cards = blend.locator(".card:visible")
    assert cards.count() == 2
    blend.get_by_role("button", name="Add an image").click()
    blend.locator("#picture-2-up").wait_for(state="visible")
    blend.locator("#picture-2-up").click()
    blend.locator(".card.at-1 #picture-2-up").wait_for(state="visible")
    blend.locator("#picture-1-remove").click()
    blend.locator("#picture-1-up").wait_for(state="hidden")
    assert cards.count() == 2
    part = visitor.tab("inpaint")
    part.locator("input[type=file]").first.set_input_files(sample)
    canvas = part.locator(".painter canvas")
    canvas.wait_for(state="visible")
    painted = "canvas => canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some((v) => v)"
    canvas.click()
    assert canvas.evaluate(painted)
    part.locator("[data-undo]").click()
    assert not canvas.evaluate(painted)
    part.locator("[data-redo]").click()
    assert canvas.evaluate(painted)
    before = canvas.bounding_box()["width"]
    part.locator("[data-in]").click()
    assert canvas.bounding_box()["width"] > 1.4 * before
    assert visitor.troubles == []
    visitor.page.context.close()
