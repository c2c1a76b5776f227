"""The service on a local Ray: two replicas, one of which is killed under load."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from tiny import build_tiny_pipeline

pytest.importorskip("ray.serve")

from versatile_diffusion.serving.cluster import HERE, REPLICA, ClusterPlan, start, stop
from versatile_diffusion.serving.limits import Limits

STEPS = 40


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("cluster") / "tiny"
    build_tiny_pipeline().save_pretrained(folder)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    start(ClusterPlan(str(folder), Limits(each=100), replicas=2, most=2, cpus=0.1), HERE, "127.0.0.1", port)
    yield f"http://127.0.0.1:{port}"
    stop()


def generate(url: str, **more: object) -> httpx.Response:
    ask = {"data": "image", "conditions": [{"modality": "text", "value": "a cat"}], "num_inference_steps": STEPS}
    return httpx.post(f"{url}/v1/generate", json={**ask, "exact": True, **more}, timeout=300)


@pytest.mark.slow
def test_a_replica_is_killed_under_load(url: str) -> None:
    """Nothing is lost: what ran there is tried again and is the same, with its seed given or drawn; and the replica
    comes back."""
    expected = {seed: generate(url, seed=seed).json()["items"][0]["sha256"] for seed in range(3)}
    processes = set()
    end = time.monotonic() + 60
    while len(processes) < 2 and time.monotonic() < end:
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda _: generate(url, num_inference_steps=2), range(4)))
        processes |= {int(answer.headers[REPLICA]) for answer in answers}
    assert len(processes) == 2

    with ThreadPoolExecutor(12) as pool:
        running = [pool.submit(generate, url, **({"seed": k % 3} if k < 9 else {})) for k in range(12)]
        time.sleep(1)
        killed = processes.pop()
        os.kill(killed, signal.SIGKILL)
        answers = [one.result() for one in running]
    assert [answer.status_code for answer in answers] == [200] * 12
    rows = [answer.json()["items"][0] for answer in answers]
    assert [row["sha256"] for row in rows[:9]] == [expected[row["seed"]] for row in rows[:9]]

    end = time.monotonic() + 120
    while time.monotonic() < end:
        seen = {int(generate(url, num_inference_steps=2).headers[REPLICA]) for _ in range(4)}
        if seen - processes:
            break
    assert seen - processes, "a new replica answers in its place"
    assert killed not in seen


@pytest.mark.slow
def test_streams_and_errors_pass_through(url: str) -> None:
    ask = {"prompt": "a cat", "num_inference_steps": 4, "stream": True, "partial_images": 1}
    with httpx.stream("POST", f"{url}/v1/images/generations", json=ask, timeout=120) as answer:
        events = [line for line in answer.iter_lines() if line.startswith("event:")]
    assert events == ["event: image_generation.partial_image", "event: image_generation.completed"]
    wrong = httpx.post(f"{url}/v1/images/generations", json={"prompt": 3})
    assert wrong.status_code == 400
    assert wrong.json()["error"]["param"] == "prompt"
    assert httpx.get(f"{url}/ready").json() == {"status": "ready"}
