"""The studio of a model of several modalities in a real browser: results are drawn, played, selected and sent on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio", reason="gradio is not installed (extra 'ui')")

from studio_visitor import Visitor

from tests.conformance.conftest import TASK, saved
from tests.ui.conftest import chromium  # noqa: F401 # a fixture
from versatile_diffusion.ui.serve import running

# Under load a browser now and then loses a click; a page that is broken fails every time.
pytestmark = [pytest.mark.campaign, pytest.mark.flaky(reruns=4)]


@pytest.mark.parametrize("look", [{}, {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"}])
def test_recordings_are_heard_and_seen(
    pipe: Any,
    chromium: Any,  # noqa: F811
    values: dict[str, Any],
    tmp_path: Path,
    look: dict[str, Any],
) -> None:
    pipe.register_to_config(defaults={task: {"num_inference_steps": 1} for task in TASK.values()})
    with running(pipe, "three", out=tmp_path / "outputs") as studio:
        visitor = Visitor(chromium.new_context(**look).new_page(), studio.url).open()
        page, part = visitor.page, visitor.tab("text-to-audio")
        part.get_by_label("Prompt", exact=True).first.fill("a bell")
        visitor.go("text-to-audio")
        assert visitor.said("text-to-audio").startswith("4 recordings in ")
        tiles = page.locator("#text-to-audio-audio-items figure")
        tiles.nth(3).wait_for()
        assert tiles.count() == 4
        assert tiles.nth(0).locator("img").evaluate("image => image.naturalWidth") == 192
        # a real player: it plays what was written, and what plays is selected
        seconds = tiles.nth(2).locator("audio").evaluate("async sound => { await sound.play(); return sound.duration }")
        assert seconds == pytest.approx(1.92, abs=0.01)
        page.locator("#text-to-audio-audio-items figure:nth-of-type(3).chosen").wait_for()
        tiles.nth(1).locator("figcaption").click()
        page.locator("#text-to-audio-audio-items figure:nth-of-type(2).chosen").wait_for()
        assert page.locator("#text-to-audio-audio-items figure.chosen").count() == 1
        with page.expect_download() as told:
            part.get_by_role("button", name="Download", exact=True).click()
        names = [file.name for file in sorted(studio.folder.rglob("text-to-audio-*.wav"))]
        assert told.value.suggested_filename == names[1]

        part = visitor.tab("audio-to-image")
        part.locator("input[type=file]").first.set_input_files(
            saved({"audio": values["audio"]}, tmp_path / "in")["audio"]
        )
        part.locator("#waveform, .waveform-container, canvas").first.wait_for(state="attached")
        visitor.go("audio-to-image")
        assert visitor.said("audio-to-image").startswith("4 images in ")

        visitor.tab("gallery")
        kept = page.locator("#gallery-audio-items figure")
        kept.nth(3).wait_for()
        assert (
            kept.nth(0).locator("audio").evaluate("async sound => { await sound.play(); return sound.error }") is None
        )
        assert (visitor.troubles, visitor.outside) == ([], [])
        page.context.close()
