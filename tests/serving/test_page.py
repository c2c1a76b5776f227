"""docs/guides/serving.md: its commands and Python are run as they are written, against a service of a tiny model; in
the campaign also what starts a service, with the shipped model."""

from __future__ import annotations

import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from PIL import Image
from processes import process
from tiny import build_tiny_pipeline

from tests.examples.pages import ROOT, blocks, commands
from versatile_diffusion import VersatileDiffusionPipeline, serving
from versatile_diffusion.pipeline import models
from versatile_diffusion.serving.server import Server
from versatile_diffusion.tasks import TASKS
from versatile_diffusion.training.diffuser.lora import LoraSettings, add_lora, save_lora

PAGE = (ROOT / "docs" / "guides" / "serving.md").read_text(encoding="utf-8")
ADDRESS = "127.0.0.1:8000"


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where a service of a tiny model listens that takes two steps where nothing else is asked for."""
    monkeypatch.chdir(tmp_path)
    pipe = build_tiny_pipeline()
    pipe.register_to_config(defaults={name: {"num_inference_steps": 2} for name in TASKS})
    pipe.save_pretrained("emoji")
    monkeypatch.setattr(models, "shipped_models", lambda: {"emoji": tmp_path / "emoji"})
    Image.effect_noise((24, 24), 80).convert("RGB").save("photo.png")
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    server = Server(uvicorn.Config(serving.app(pipe, name="emoji"), port=port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"127.0.0.1:{port}"
    server.should_exit = True
    thread.join(30)


@pytest.mark.skipif(not (shutil.which("curl") and shutil.which("jq")), reason="needs curl and jq")
def test_commands(address: str) -> None:
    lines = [line for line in commands(PAGE) if line.startswith("curl")]
    assert len(lines) == 7
    answers = []
    for line in lines:
        run = subprocess.run(
            ["bash", "-c", f"set -o pipefail; {line.replace(ADDRESS, address)}"], capture_output=True, text=True
        )
        assert run.returncode == 0, run.stderr
        assert '"error"' not in run.stdout, run.stdout
        answers.append(run.stdout)
    assert Image.open("apple.png").size == (16, 16)
    assert re.fullmatch(r"[0-9a-f]{64}\n", answers[-1])


def test_python(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    code = [body for kind, body in blocks(PAGE) if kind == "python"]
    assert len(code) == 6
    for body in code:
        exec(compile(body.replace(ADDRESS, address), "serving.md", "exec", dont_inherit=True), names)
    shown = capsys.readouterr().out
    assert shown.count("image_generation.partial_image") >= 1
    assert "image_generation.completed" in shown
    assert len(names["made"].data) == 2
    names["api"].routes[-1].app.state.service.engine.close()


SERVES = [line for line in commands(PAGE) if line.startswith("versatile serve")]


@pytest.mark.campaign
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("line", SERVES)
def test_what_starts_a_service(line: str, tmp_path: Path) -> None:
    """It answers, lists the models that the command names, and ends by itself when it is told to."""
    if "--ray" in line:
        pytest.importorskip("ray.serve")
    names = re.findall(r"--lora (\w+)=(\S+)", line)
    for _, place in names:
        pipe = VersatileDiffusionPipeline.from_pretrained("emoji")
        add_lora(pipe.unet, LoraSettings())
        save_lora(pipe.unet, tmp_path / place)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    call = [sys.executable, "-m", "versatile_diffusion", *line.split()[1:], "--port", str(port)]
    url, end = f"http://127.0.0.1:{port}", time.monotonic() + 1200
    with process(call, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as service:
        try:
            assert service.stdout is not None
            assert service.stdout.readline().strip() == url
            while not answers(f"{url}/ready"):
                assert service.poll() is None
                assert time.monotonic() < end, "it is never ready"
                time.sleep(0.2)
            listed = [row["id"] for row in httpx.get(f"{url}/v1/models", timeout=900).json()["data"]]
            assert listed == ["base" if names else "emoji", *(name for name, _ in names)]
            for model in listed:
                ask = {"prompt": "a red apple", "model": model, "num_inference_steps": 1, "seed": 0}
                answer = httpx.post(f"{url}/v1/images/generations", json=ask, timeout=900)
                assert answer.status_code == 200, answer.text
        finally:
            service.send_signal(signal.SIGTERM)
        assert service.wait(300) == 0


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=60).status_code == 200
    except httpx.HTTPError:
        return False
