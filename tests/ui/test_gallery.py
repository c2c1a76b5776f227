"""The gallery in a real browser: results outlive a reload and a restart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from studio_visitor import Visitor

from versatile_diffusion import VersatileDiffusionPipeline
from versatile_diffusion.ui.serve import running

pytestmark = [pytest.mark.campaign, pytest.mark.flaky(reruns=2)]
DARK = "document.body.classList.contains('dark')"


def shown(visitor: Visitor, count: int) -> Any:
    """Opens the gallery, and waits until it has this many images."""
    part = visitor.tab("gallery")
    images = visitor.pictures("gallery")
    visitor.page.wait_for_function(
        "count => document.querySelectorAll('#gallery-image-items .grid-container img').length === count", arg=count
    )
    assert images.count() == count
    return part


def test_results_outlive_a_reload_and_a_restart(
    chromium: Any, tiny_pipeline: VersatileDiffusionPipeline, tmp_path: Path
) -> None:
    out, context = tmp_path / "outputs", chromium.new_context(viewport={"width": 1400, "height": 900})
    for start in range(2):
        with running(tiny_pipeline, "tiny", out=out) as studio:
            visitor = Visitor(context.new_page(), studio.url).open()
            visitor.page.on("dialog", lambda dialog: dialog.accept())
            if not start:
                visitor.example("text-to-image")
                assert visitor.said("text-to-image").startswith("4 images")
                visitor.page.click("#shade")
                visitor.page.reload()
                visitor.page.wait_for_selector("#text-to-image-go")
            visitor.page.wait_for_function(DARK)
            part = shown(visitor, 4 - start)
            if not start:
                part.get_by_role("button", name="Favourite").first.click()
                part.get_by_text("\u2605").first.wait_for()
                part.get_by_label("Favourites").click()
                shown(visitor, 1)
                part.get_by_label("All", exact=True).click()
                shown(visitor, 4)
                visitor.pictures("gallery").nth(3).click()
                part.locator(".preview").wait_for()
                part.get_by_role("button", name="Delete").first.click()
                shown(visitor, 3)
                assert len([*out.glob("*/*.png")]) == 3
            assert visitor.troubles == []
            assert visitor.outside == []
    context.close()


def test_images_are_compared_enlarged_and_their_settings_reused(
    chromium: Any, tiny_pipeline: VersatileDiffusionPipeline, tmp_path: Path
) -> None:
    with running(tiny_pipeline, "tiny", out=tmp_path / "outputs") as studio:
        visitor = Visitor(chromium.new_context(viewport={"width": 1400, "height": 900}).new_page(), studio.url).open()
        visitor.example("text-to-image")
        visitor.said("text-to-image")
        thumbnail = visitor.pictures("text-to-image").first
        small = thumbnail.bounding_box()["width"]
        thumbnail.click()
        large = visitor.page.locator("#text-to-image-image-items .preview .media-button img")
        large.wait_for()
        assert large.bounding_box()["height"] > small
        part = shown(visitor, 4)
        visitor.pictures("gallery").first.click()
        part.get_by_role("button", name="Compare").first.click()
        part.get_by_text("select another result").wait_for()
        part.locator(".thumbnails .thumbnail-item").nth(2).click()
        part.get_by_role("button", name="Compare").first.click()
        part.locator(".compared img").nth(1).wait_for()
        assert part.locator(".compared th", has_text="Seed").count() == 1
        part.get_by_role("button", name="Reuse settings").first.click()
        visitor.page.get_by_text("Settings restored.").wait_for()
        assert visitor.page.locator("#tab-text-to-image").is_visible()
        assert visitor.troubles == []
        visitor.page.context.close()
