"""Malformed requests: whatever comes in, a mistake of the client is answered as one, and the service goes on."""

from __future__ import annotations

import base64
import copy
import json
import logging
import os
import random
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image
from service_client import data_url, file_of, image_part, message

from versatile_diffusion import VersatileDiffusionPipeline, serving
from versatile_diffusion.serving import Limits

ONE: dict[str, Any] = {"num_inference_steps": 1}
STRANGE: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2**31, 2**63, 2**64, -(2**70), 10**400, 0.5, -0.0, 1e308, 5e-324),
    *("", " ", "\x00", "\ud800", "\u202e", "a" * 5000, "[1,2", "{}", "null", "NaN", "../../etc/passwd"),
    *("data:", "data:image/png;base64,", "data:image/png;base64,AAAA", "http://127.0.0.1/", "file:///etc/passwd"),
    *([], {}, [[]], [None], [1, "a"], {"a": {"b": {}}}, ["a"] * 300, [[[[[[[[1]]]]]]]], {"": ""}, {"sha256": "0"}),
    *([0.9, 0.1], [0, 0, 0, 0], [-1, 2, 3, 4], "left", "noto", "ddim", "attention", "image", "text", "audio"),
)
HEADERS: tuple[dict[str, str], ...] = (
    {},
    {"Content-Type": "application/json"},
    {"Content-Type": "text/plain"},
    {"Content-Type": "multipart/form-data"},
    {"Content-Type": "multipart/form-data; boundary=x"},
    {"Content-Type": "application/x-www-form-urlencoded"},
    {"Content-Type": "application/json; charset=utf-16"},
    {"Content-Length": "99"},
    {"X-Request-ID": "é" * 40},
    {"Authorization": "Bearer"},
)
METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE")


@pytest.fixture(scope="module")
def service(pipe: VersatileDiffusionPipeline) -> Iterator[TestClient]:
    """With limits so low that what is valid after all takes no time."""
    limits = Limits(items=3, steps=3, side=64, tokens=16, seconds=60, megabytes=2, pixels=100_000)
    with TestClient(serving.app(pipe, limits), base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        yield client


def valid(pipe: VersatileDiffusionPipeline, image: Image.Image) -> dict[str, dict[str, Any]]:
    """A request of each endpoint that takes JSON, with nested fields."""
    condition = {"modality": "image", "value": data_url(image), "weight": 1.0, "mask": data_url(image), "focus": 0.5}
    text = {"modality": "text", "value": "a cat", "region": "left", "negative": "a dog", "start": 0.0, "end": 1.0}
    settings = json.loads(json.dumps(pipe.image_variation(image, seed=0, **ONE).settings))
    return {
        "/v1/images/generations": {"prompt": "a cat", "n": 1, "size": "16x16", "style": "noto", "seed": 1, **ONE},
        "/v1/chat/completions": {"messages": message([image_part(image)]), "n": 1, "temperature": 0.0, **ONE},
        "/v1/embeddings": {"input": ["a cat", data_url(image)], "encoding_format": "base64"},
        "/v1/generate": {"data": "image", "conditions": [condition, text], "guidance_interval": [0, 1], **ONE},
        "/v1/replay": {"settings": settings, "inputs": [data_url(image)]},
    }


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The places in a value of JSON."""
    yield path
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*path, key))


def changed(body: Any, source: random.Random) -> Any:
    """A body with one to three places changed, taken out or added."""
    body = copy.deepcopy(body)
    for _ in range(source.randint(1, 3)):
        path = source.choice([place for place in places(body) if place] or [()])
        if not path:
            return copy.deepcopy(source.choice(STRANGE))
        holder = body
        for key in path[:-1]:
            holder = holder[key]
        action = source.random()
        if action < 0.65:
            holder[path[-1]] = copy.deepcopy(source.choice(STRANGE))
        elif action < 0.85:
            del holder[path[-1]]
        elif isinstance(holder, dict):
            holder[source.choice(["n", "start", "repaint", "latents", "tokens", "strange", "mixing"])] = copy.deepcopy(
                source.choice(STRANGE)
            )
    return body


def spoilt(data: bytes, source: random.Random) -> bytes:
    """Bytes cut short, or with some of them changed."""
    held = bytearray(data[: source.randint(0, len(data))] if source.random() < 0.4 else data)
    for _ in range(source.randint(0, 8)):
        if held:
            held[source.randrange(len(held))] = source.randrange(256)
    return bytes(held)


def request(number: int, bodies: dict[str, dict[str, Any]], image: Image.Image) -> dict[str, Any]:
    """A malformed request, the same for the same number."""
    source = random.Random(number)
    path, body = source.choice(list(bodies.items()))
    kind = source.random()
    if kind < 0.5:
        return {"url": path, "content": json.dumps(changed(body, source)), "headers": HEADERS[1]}
    if kind < 0.62:
        content = spoilt(json.dumps(body).encode(), source)
        return {"url": path, "content": content, "headers": source.choice(HEADERS[:7])}
    if kind < 0.72:  # a file that is damaged, where an image should be
        text = base64.b64encode(spoilt(file_of(image, source.choice(["PNG", "JPEG", "GIF", "WEBP"])), source)).decode()
        condition = {"modality": source.choice(["image", "text"]), source.choice(["value", "tokens", "mask"]): text}
        return {"url": "/v1/generate", "json": {"data": "image", "conditions": [condition], **ONE}}
    if kind < 0.92:
        fields = {
            source.choice(
                ["prompt", "n", "size", "repaint", "guidance_interval", "mask", "null", "seed", "model"]
            ): str(source.choice(STRANGE)).encode("utf-8", "replace")
            for _ in range(source.randint(0, 4))
        }
        names = [source.choice(["image", "image[]", "mask", "other", ""]) for _ in range(source.randint(0, 3))]
        files = [(name, ("a.png", spoilt(file_of(image), source))) for name in names]
        data = {"num_inference_steps": "1", **{name: value.decode() for name, value in fields.items()}}
        return {"url": f"/v1/images/{source.choice(['edits', 'variations'])}", "data": data, "files": files or None}
    where = source.choice(
        [path, "/", "/v1", "/v1/models/..%2f", "/v1/models/" + "a" * 3000, "/docs/x", "//", "/v1/../ready"]
    )
    headers = {name: value.encode() for name, value in source.choice(HEADERS).items()}
    return {"method": source.choice(METHODS), "url": where, "headers": headers, "content": spoilt(b"{}" * 9, source)}


def sent(
    service: TestClient, pipe: VersatileDiffusionPipeline, image: Image.Image, numbers: range, caplog: Any
) -> dict[int, int]:
    """Sends malformed requests and looks at each answer; how many there were of each status."""
    bodies, counts = valid(pipe, image), dict[int, int]()
    for path, body in bodies.items():
        assert service.post(path, json=body).status_code == 200, path
    with caplog.at_level(logging.ERROR):
        for number in numbers:
            answer = service.request(**{"method": "POST", **request(number, bodies, image)})
            counts[answer.status_code] = counts.get(answer.status_code, 0) + 1
            assert answer.status_code < 500, f"request {number}: {answer.status_code} {answer.text[:300]} {caplog.text}"
            assert "Traceback" not in answer.text
            if answer.status_code >= 400 and answer.request.method != "HEAD":
                error = answer.json()["error"]
                assert error["message"], f"request {number}"
                assert len(error["message"]) <= 500
                assert "\n" not in error["message"]
    assert "Traceback" not in caplog.text
    assert service.get("/health").status_code == service.get("/ready").status_code == 200
    assert service.app.state.service.engine.running == 0  # type: ignore[attr-defined]
    return counts


def test_some_malformed_requests(
    service: TestClient,
    pipe: VersatileDiffusionPipeline,
    picture: Image.Image,
    caplog: pytest.LogCaptureFixture,
) -> None:
    counts = sent(service, pipe, picture, range(10_000, 10_060), caplog)
    assert counts.get(400, 0) > 30


NUMBERS = range(*map(int, os.environ.get("VERSATILE_FAULTS", "0:500").split(":")))
"""Of the requests of the campaign; the variable asks for others: FIRST:END."""


@pytest.mark.campaign
@pytest.mark.timeout(7200)
def test_500_malformed_requests(
    service: TestClient,
    pipe: VersatileDiffusionPipeline,
    picture: Image.Image,
    caplog: pytest.LogCaptureFixture,
) -> None:
    counts = sent(service, pipe, picture, NUMBERS, caplog)
    print(counts)
    assert sum(counts.values()) == len(NUMBERS)
    assert counts.get(400, 0) > len(NUMBERS) / 2
