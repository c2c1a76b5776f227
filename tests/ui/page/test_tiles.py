"""Results that are drawn but are no images: what a tile shows, and what is shown of a file that is gone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gradio", reason="gradio is not installed (extra 'ui')")

from versatile_diffusion.modalities.audio.waveform import RATE, Waveform, write_wav
from versatile_diffusion.ui.page.panel import Panel
from versatile_diffusion.ui.page.shelf import Made
from versatile_diffusion.ui.page.tiles import page_of, tile


@pytest.fixture
def recording(tmp_path: Path) -> Made:
    file = tmp_path / "text to audio-0001.wav"
    with file.open("wb") as stream:
        write_wav(Waveform(np.sin(np.arange(RATE) / 9).astype(np.float32), RATE), stream, {})
    return Made("audio", "<a red apple>", file, {})


def test_a_tile_has_picture_player_and_line(recording: Made) -> None:
    shown = tile(recording)
    assert 'src="data:image/png;base64,' in shown
    assert (
        f'<audio controls preload="none" src="gradio_api/file={recording.file.parent}/text%20to%20audio-0001.wav"'
        in shown
    )
    assert "1.00 s at 16 kHz" in shown
    assert "<a red apple>" not in shown
    assert "&lt;a red apple&gt;" in shown


def test_the_first_of_several_is_selected(recording: Made) -> None:
    page = page_of([recording, recording])
    assert page.count("<figure") == 2
    assert page.count('<figure class="chosen" aria-current="true">') == 1
    assert page.index("chosen") < page.index("</figure>")


def test_a_file_that_is_gone_is_a_line(recording: Made) -> None:
    recording.file.unlink()
    assert "&lt;a red apple&gt;" in tile(recording)
    assert "<audio" not in tile(recording)


def test_the_panel_of_each_modality(recording: Made) -> None:
    import gradio as gr

    with gr.Blocks(analytics_enabled=False):
        drawn = {data: Panel.draw(data, "tab") for data in ("image", "text", "audio")}
    kinds = [type(panel.items).__name__ for panel in drawn.values()]
    assert kinds == ["Gallery", "Radio", "HTML"]
    labels = [panel.download.label for panel in drawn.values()]
    assert labels == ["Download with settings", "Download with settings", "Download"]
    assert "<audio" in drawn["audio"].shown([1], [recording])[1]["value"]
