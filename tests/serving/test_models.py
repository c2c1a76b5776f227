"""Several models under one address: the model and its adapters on a local Ray; updates and growth under load."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from fastapi.testclient import TestClient
from tiny import build_tiny_pipeline

from versatile_diffusion import Condition, VersatileDiffusionPipeline, serving
from versatile_diffusion.serving.variants import with_lora
from versatile_diffusion.training.diffuser.lora import LoraSettings, add_lora, save_lora

pytest.importorskip("ray.serve")

import ray
from ray import serve

from versatile_diffusion.serving import cluster
from versatile_diffusion.serving.cluster import HERE, NAME, REPLICA, Asked, ClusterPlan, start, stop
from versatile_diffusion.serving.limits import Limits

BASE = "base"
WAIT = 900
"""Seconds for what a busy machine takes long for."""


def saved_lora(folder: Path, seed: int) -> str:
    """An adapter of the tiny model with random weights, none of them zero."""
    pipe = build_tiny_pipeline()
    add_lora(pipe.unet, LoraSettings())
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for name, weight in pipe.unet.named_parameters():
            if ".lora_" in name:
                weight.normal_(std=0.2)
    save_lora(pipe.unet, folder)
    return str(folder)


def image_of(pipe: VersatileDiffusionPipeline) -> Any:
    return pipe.generate("image", [Condition("text", "a cat")], seed=1, num_inference_steps=2, output_type="np").values


def test_a_model_beside_itself_shares_its_weights_alone(tmp_path: Path) -> None:
    """The adapter acts in one and not in the other; tensors are the same, and what is new is small."""
    base = build_tiny_pipeline()
    before = image_of(base)
    made = with_lora(base, saved_lora(tmp_path, 0))
    assert abs(image_of(made) - before).max() > 1e-3
    assert (image_of(base) == before).all()
    held = {weight.data_ptr() for weight in base.unet.parameters()}
    new = [name for name, weight in made.unet.named_parameters() if weight.data_ptr() not in held]
    assert new
    assert all(".lora_" in name for name in new)
    assert all(
        made.bank.state_dict()[name].data_ptr() == tensor.data_ptr() for name, tensor in base.bank.state_dict().items()
    )
    alone = build_tiny_pipeline()
    alone.load_lora_weights(tmp_path)
    assert (image_of(alone) == image_of(made)).all()


def test_all_models_are_listed_and_named_where_one_is_unknown() -> None:
    api = serving.app(build_tiny_pipeline(), name=BASE, others=("a", "b"))
    with TestClient(api, base_url="http://127.0.0.1") as client:
        assert [row["id"] for row in client.get("/v1/models").json()["data"]] == [BASE, "a", "b"]
        wrong = client.post("/v1/images/generations", json={"prompt": "a cat", "model": "c"})
    assert wrong.status_code == 404
    assert "'base', 'a', 'b'" in wrong.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "kind", "body", "named"),
    [
        ("/v1/models/a%20b", "", b"", "a b"),
        ("/v1/generate", "application/json", b'{"model": "a"}', "a"),
        ("/v1/generate", "application/json; charset=utf-8", b'{"model": 3}', ""),
        ("/v1/generate", "application/json", b'["model"]', ""),
        ("/v1/generate", "application/json", b'{"model"', ""),
        ("/v1/generate", "application/json", b"[" * 100_000, ""),
        (
            "/v1/images/edits",
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\na\r\n--x--\r\n',
            "a",
        ),
        (
            "/v1/images/edits",
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="n"\r\n\r\n1\r\n--x--\r\n',
            "",
        ),
        ("/ready", "", b"", ""),
    ],
)
def test_which_model_a_request_names(path: str, kind: str, body: bytes, named: str) -> None:
    headers = [(b"content-type", kind.encode())] if kind else []
    assert Asked("POST", path, b"", headers, body, "").model == named


def test_a_plan_needs_names_of_their_own() -> None:
    with pytest.raises(ValueError, match="both called 'a'"):
        ClusterPlan("m", name="a", loras={"a": "x"})


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """A folder with two models and two adapters, and the port at which they are served."""
    folder = tmp_path_factory.mktemp("models")
    build_tiny_pipeline().save_pretrained(folder / "one")
    changed = build_tiny_pipeline()
    with torch.no_grad():
        for weight in changed.unet.parameters():
            weight.mul_(1.1)
    changed.save_pretrained(folder / "two")
    for seed, name in enumerate(("a", "b")):
        saved_lora(folder / name, seed)
    yield folder, free_port()
    stop()


def plan(folder: Path, model: str = "one", **more: Any) -> ClusterPlan:
    loras = {name: str(folder / name) for name in ("a", "b")}
    return ClusterPlan(str(folder / model), Limits(each=200, places=2), cpus=0.1, name=BASE, loras=loras, **more)


def deployed(what: ClusterPlan, port: int) -> str:
    """Serves it on a Ray of this machine, whose own processes have 30 seconds to start; a busy one gets more tries."""
    for _ in range(2):
        try:
            return start(what, HERE, "127.0.0.1", port)
        except Exception as error:
            if "timed out during startup" not in str(error):
                raise
            ray.shutdown()
    return start(what, HERE, "127.0.0.1", port)


def generate(url: str, **more: Any) -> httpx.Response:
    ask = {"data": "image", "conditions": [{"modality": "text", "value": "a cat"}], "num_inference_steps": 3, "seed": 1}
    return httpx.post(f"{url}/v1/generate", json={**ask, "exact": True, **more}, timeout=WAIT)


def digest(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return answer.json()["items"][0]["sha256"]


def until(true: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + WAIT
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.2)


@pytest.mark.campaign
@pytest.mark.timeout(3600)
def test_the_name_in_a_request_picks_the_model(place: tuple[Path, int]) -> None:
    folder, port = place
    url = f"http://127.0.0.1:{port}"
    deployed(plan(folder, replicas=1, most=1), port)
    assert [row["id"] for row in httpx.get(f"{url}/v1/models", timeout=WAIT).json()["data"]] == [BASE, "a", "b"]
    names = (BASE, "a", "b", None)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda name: digest(generate(url, model=name)), names * 2))
    assert answers[:4] == answers[4:]
    assert answers[3] == answers[0]
    assert len(set(answers)) == 3
    fingerprint = httpx.get(f"{url}/v1/models/a", timeout=WAIT).json()["fingerprint"]
    record = generate(url, model="a").json()["settings"]
    assert record["model"]["fingerprint"] == fingerprint
    replayed = httpx.post(f"{url}/v1/replay", json={"model": "a", "settings": record}, timeout=WAIT)
    assert digest(replayed) == answers[1]
    assert generate(url, model="c").status_code == 404


@pytest.mark.campaign
@pytest.mark.timeout(3600)
def test_replicas_are_added_while_requests_wait(place: tuple[Path, int]) -> None:
    folder, port = place
    url = f"http://127.0.0.1:{port}"
    deployed(plan(folder, replicas=1, most=2), port)
    ended = threading.Event()
    processes: set[str] = set()

    def running() -> int:
        states = serve.status().applications[NAME].deployments["Replica"].replica_states
        return sum(count for state, count in states.items() if state == "RUNNING")

    until(lambda: running() == 1, "one replica is there at first")

    def client() -> None:
        while not ended.is_set():
            answer = generate(url, num_inference_steps=60)
            assert answer.status_code == 200, answer.text
            processes.add(answer.headers[REPLICA])

    with ThreadPoolExecutor(12) as pool:
        clients = [pool.submit(client) for _ in range(12)]
        try:
            until(lambda: running() == 2, "a replica is added")
            until(lambda: len(processes) == 2, "both answer")
        finally:
            ended.set()
        for one in clients:
            one.result()


@pytest.mark.campaign
@pytest.mark.timeout(3600)
def test_an_update_of_the_model_loses_no_request(place: tuple[Path, int]) -> None:
    """Clients ask all the time while the weights are exchanged under the same name: all are answered, by the old model
    or the new one, and in the end by the new one alone."""
    folder, port = place
    url = f"http://127.0.0.1:{port}"
    first = deployed(plan(folder, replicas=2, most=2), port)
    old, ended = digest(generate(url)), threading.Event()
    answers: list[httpx.Response] = []

    def client() -> None:
        while not ended.is_set():
            answers.append(generate(url))

    with ThreadPoolExecutor(6) as pool:
        clients = [pool.submit(client) for _ in range(6)]
        try:
            until(lambda: len(answers) > 6, "the old model answers")
            second = deployed(plan(folder, "two", replicas=2, most=2), port)
            assert cluster._owner() == second != first, "so the first process does not end what the second serves"
            count = len(answers)
            until(lambda: len(answers) > count + 12, "the new model answers")
        finally:
            ended.set()
        for one in clients:
            one.result()
    assert {answer.status_code for answer in answers} == {200}
    digests = [digest(answer) for answer in answers]
    new = digest(generate(url))
    assert new != old
    assert set(digests) == {old, new}
    assert {digest(generate(url)) for _ in range(6)} == {new}
