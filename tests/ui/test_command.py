"""`versatile ui` as people start and end it."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from subprocess import PIPE

import pytest

pytest.importorskip("gradio", reason="gradio is not installed (extra 'ui')")

import httpx
from processes import process

from versatile_diffusion import VersatileDiffusionPipeline


@pytest.mark.slow
def test_it_serves_until_it_is_told_to_end_and_clears_up(
    tiny_pipeline: VersatileDiffusionPipeline, tmp_path: Path
) -> None:
    tiny_pipeline.save_pretrained(tmp_path / "model")
    (scratch := tmp_path / "scratch").mkdir()
    command = [sys.executable, "-m", "versatile_diffusion", "ui", "--model", str(tmp_path / "model"), "--json"]
    environment = {**os.environ, "TMPDIR": str(scratch)}
    with process(command, stdout=PIPE, env=environment) as server:
        assert server.stdout is not None
        text = ""
        for line in server.stdout:
            text += line
            if line == "}\n":
                break
        page = httpx.get(json.loads(text)["url"], trust_env=False, timeout=600)
        assert page.status_code == 200
        assert "Versatile Diffusion studio" in page.text
        assert [folder.name[:13] for folder in scratch.iterdir()] == ["versatile-ui-"]
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=600) == 0
    assert list(scratch.iterdir()) == []
