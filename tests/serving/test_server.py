"""The service on a socket: full queues, clients that go away, and stopping."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import openai as library
import pytest
import torch
import uvicorn
from openai import OpenAI
from processes import process
from tiny import build_tiny_pipeline

from versatile_diffusion import serving
from versatile_diffusion.diffuser.unet import MultiFlowUNet
from versatile_diffusion.serving import Engine, Limits
from versatile_diffusion.serving.server import Server

IMAGES = "/v1/images/generations"
LONG = {"prompt": "a cat", "num_inference_steps": 200}


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def served(limits: Limits) -> Iterator[tuple[str, Engine]]:
    """The address of a service in a thread of this process, and its engine."""
    api = serving.app(build_tiny_pipeline(), limits, name="tiny")
    port = free_port()
    server = Server(uvicorn.Config(api, port=port, log_level="warning", timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}", api.state.service.engine
    finally:
        server.should_exit = True
        thread.join(30)


@pytest.fixture
def serve() -> Iterator[Callable[..., tuple[str, Engine]]]:
    with ExitStack() as stack:
        yield lambda **limits: stack.enter_context(served(Limits(**limits)))


class Gate:
    """Holds the network until it is opened; counts passes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.open, self.passes = threading.Event(), 0
        forward = MultiFlowUNet.forward

        def waited(unet: Any, *args: Any, **options: Any) -> torch.Tensor:
            self.passes += 1
            assert self.open.wait(30)
            return forward(unet, *args, **options)

        monkeypatch.setattr(MultiFlowUNet, "forward", waited)


def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)


def test_a_full_service_answers_429_at_once(
    serve: Callable[..., tuple[str, Engine]], monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)
    url, engine = serve(places=1, waiting=2, each=50)
    ask = {"prompt": "a cat", "num_inference_steps": 1}
    with ThreadPoolExecutor(3) as pool:
        jobs = [pool.submit(httpx.post, url + IMAGES, json=ask, timeout=60) for _ in range(3)]
        until(lambda: engine.waiting == 2 and gate.passes == 1)
        answer = httpx.post(url + IMAGES, json=ask, timeout=30)
        assert answer.status_code == 429
        assert 1 <= int(answer.headers["Retry-After"]) <= 600
        assert answer.json()["error"]["code"] == "rate_limit_exceeded"
        client = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
        with pytest.raises(library.RateLimitError):
            client.images.generate(prompt="a cat")
        assert httpx.get(url + "/health").status_code == httpx.get(url + "/ready").status_code == 200
        gate.open.set()
        assert [job.result().status_code for job in jobs] == [200] * 3


@pytest.mark.parametrize("stream", [False, True])
def test_who_goes_away_takes_no_more_steps(
    serve: Callable[..., tuple[str, Engine]], monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    gate = Gate(monkeypatch)
    url, engine = serve(places=1)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(url + IMAGES, json=LONG | {"stream": stream, "partial_images": 1}, timeout=1)
    until(lambda: gate.passes == 1)
    time.sleep(0.3)  # the server learns that the connection is closed
    gate.open.set()
    until(lambda: engine.running == 0)
    assert gate.passes <= 2, "within a step"


def test_a_deadline_of_a_request(serve: Callable[..., tuple[str, Engine]], monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    url, engine = serve(places=1)
    threading.Timer(0.5, gate.open.set).start()
    answer = httpx.post(url + IMAGES, json=LONG | {"timeout": 0.2}, timeout=30)
    assert answer.status_code == 504
    assert "not done in time" in answer.json()["error"]["message"]
    assert engine.running == 0


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "tiny"
    build_tiny_pipeline().save_pretrained(folder)
    return folder


@contextmanager
def service_of(model: Path, *options: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """`versatile serve` as people start it, once it is ready."""
    port = free_port()
    command = [sys.executable, "-m", "versatile_diffusion", "serve", "--model", str(model), "--port", str(port)]
    url = f"http://127.0.0.1:{port}"
    with process([*command, *options], stderr=subprocess.PIPE, stdout=subprocess.PIPE) as started:

        def ready() -> bool:
            assert started.poll() is None, started.communicate()[1]
            try:
                return httpx.get(f"{url}/ready").status_code == 200
            except httpx.TransportError:
                return False

        until(ready, 120)
        yield url, started


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="there is no SIGTERM on Windows")
def test_sigterm_drains(model: Path) -> None:
    """What runs is answered, `/ready` and new requests get 503 meanwhile, and the exit code is 0."""
    with service_of(model, "--grace", "60") as (url, service), ThreadPoolExecutor(1) as pool:
        running = pool.submit(httpx.post, url + IMAGES, json=LONG | {"n": 8}, timeout=120)
        until(lambda: "versatile_running_items 8.0" in httpx.get(f"{url}/metrics").text)
        service.send_signal(signal.SIGTERM)
        until(lambda: httpx.get(f"{url}/ready").status_code == 503)
        assert httpx.post(url + IMAGES, json=LONG).status_code == 503
        answer = running.result()
        assert answer.status_code == 200
        assert len(answer.json()["data"]) == 8
        _, errors = service.communicate(timeout=60)
        assert service.returncode == 0
        assert "Traceback" not in errors


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="there is no SIGTERM on Windows")
def test_what_takes_longer_than_the_grace_is_given_up(model: Path) -> None:
    with service_of(model, "--grace", "0.2", "--max-steps", "1000") as (url, service), ThreadPoolExecutor(1) as pool:
        ask = LONG | {"n": 8, "num_inference_steps": 1000}
        running = pool.submit(httpx.post, url + IMAGES, json=ask, timeout=120)
        until(lambda: "versatile_running_items 8.0" in httpx.get(f"{url}/metrics").text)
        service.send_signal(signal.SIGTERM)
        answer = running.result()
        assert answer.status_code == 503
        assert "stopped before" in answer.json()["error"]["message"]
        service.communicate(timeout=60)
        assert service.returncode == 0
