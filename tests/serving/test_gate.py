"""Who may come in, how much they may send, and what is written of it."""

from __future__ import annotations

import json
import logging
import re
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from PIL import Image
from service_client import FEW, data_url

from versatile_diffusion import VersatileDiffusionPipeline, serving
from versatile_diffusion.serving import Limits
from versatile_diffusion.serving.server import hosts, is_loopback, keys_in

KEY = "a-key-of-some-length"
ASK = {"prompt": "a cat", **FEW}
IMAGES = "/v1/images/generations"


@pytest.fixture
def service(pipe: VersatileDiffusionPipeline) -> Iterator[Callable[..., TestClient]]:
    """Makes a service with some options."""
    made: list[TestClient] = []

    def make(limits: Limits | None = None, **options: Any) -> TestClient:
        made.append(TestClient(serving.app(pipe, limits, name="tiny", **options), base_url="http://127.0.0.1"))
        return made[-1]

    yield make
    for client in made:
        client.app.state.service.engine.close()  # type: ignore[attr-defined]


def problem(answer: Any, status: int) -> str:
    """The message of an error in OpenAI's form."""
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert "\n" not in error["message"]
    assert "Traceback" not in answer.text
    return error["message"]


def test_keys(service: Callable[..., TestClient]) -> None:
    client = service(api_keys=[KEY, "another-key"])
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": KEY}, {"X-API-Key": KEY[:-1]}):
        assert "API key is missing or wrong" in problem(client.post(IMAGES, json=ASK, headers=headers), 401)
        assert client.get("/v1/models", headers=headers).status_code == 401
        assert client.get("/metrics", headers=headers).status_code == 401
    for headers in ({"Authorization": f"Bearer {KEY}"}, {"X-API-Key": "another-key"}):
        assert client.get("/v1/models", headers=headers).status_code == 200
    assert (
        client.get("/health").status_code == client.get("/ready").status_code == client.get("/docs").status_code == 200
    )


def test_each_key_is_a_client_of_its_own(service: Callable[..., TestClient], caplog: pytest.LogCaptureFixture) -> None:
    client = service(api_keys=[KEY, "another-key"])
    with caplog.at_level(logging.INFO, "versatile_diffusion.access"):
        for key in (KEY, "another-key", KEY):
            client.get("/v1/models", headers={"Authorization": f"Bearer {key}"})
    first, second, third = [json.loads(line.message)["client"] for line in caplog.records]
    assert first == third != second
    assert KEY not in caplog.text


def test_other_sites_get_nothing(service: Callable[..., TestClient]) -> None:
    client = service(allow_hosts=hosts("127.0.0.1", ["service.example.org"]))
    assert "other sites" in problem(client.post(IMAGES, json=ASK, headers={"Origin": "http://evil.example"}), 403)
    assert "host name" in problem(client.get("/v1/models", headers={"Host": "evil.example"}), 421)
    for host in ("localhost:8000", "service.example.org", "127.0.0.1"):
        own = {"Host": host, "Origin": f"http://{host}"}
        answer = client.get("/v1/models", headers=own)
        assert answer.status_code == 200
        assert not [name for name in answer.headers if name.startswith("access-control")]


def test_bodies_are_bounded(service: Callable[..., TestClient], picture: Image.Image) -> None:
    client = service(Limits(megabytes=1))
    assert "at most 1048576" in problem(client.post(IMAGES, json=ASK | {"user": "a" * 2_000_000}), 413)

    def chunks() -> Iterator[bytes]:
        for _ in range(40):
            yield b" " * 50_000

    assert "all that is allowed" in problem(
        client.post(IMAGES, content=chunks(), headers={"Content-Type": "application/json"}), 413
    )
    big = {"image": ("a.png", b"a" * 2_000_000)}
    assert "at most" in problem(client.post("/v1/images/variations", files=big), 413)


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"a":' * 200 + b"1" + b"}" * 200, b"[" + b"[]," * 200_000])
def test_json_is_not_too_deep(client: TestClient, body: bytes) -> None:
    message = problem(client.post(IMAGES, content=body, headers={"Content-Type": "application/json"}), 400)
    assert "levels deep" in message or "texts and brackets" in message
    deep = {"prompt": "[[[{" * 1000, **FEW}
    assert client.post(IMAGES, json=deep).status_code in (200, 400), "brackets in a text count for nothing"


def bomb(width: int, height: int) -> str:
    """A PNG file of few bytes that says it has many pixels."""
    import base64
    import struct

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


@pytest.mark.parametrize("size", [(60_000, 60_000), (6000, 6000), (2**31 - 1, 2**31 - 1)])
def test_decompression_bombs_are_refused(client: TestClient, size: tuple[int, int]) -> None:
    condition = {"modality": "image", "value": bomb(*size)}
    message = problem(client.post("/v1/generate", json={"data": "image", "conditions": [condition], **FEW}), 400)
    assert re.search("pixels|too large|too many", message)


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:1/a.png", "file:///etc/hostname", "/etc/hostname", "https://example.org/a.png", ""]
)
def test_nothing_is_fetched_or_opened(client: TestClient, address: str, tmp_path: Any, picture: Image.Image) -> None:
    """Neither addresses nor files of this machine, wherever a request names them."""
    picture.save(tmp_path / "here.png")
    for where in (address, str(tmp_path / "here.png")):
        image = {"modality": "image", "value": where}
        text = {"modality": "text", "value": "a cat"}
        bodies = [
            {"conditions": [image]},
            {"conditions": [text], "start": where, "fidelity": 0.5},
            {"conditions": [text | {"region": where}]},
            {"conditions": [{"modality": "image", "value": data_url(picture), "mask": where}]},
            {"conditions": [{"modality": "text", "tokens": where}]},
            {"conditions": [text], "latents": where},
        ]
        for body in bodies:
            message = problem(client.post("/v1/generate", json={"data": "image", **FEW, **body}), 400)
            assert re.search(
                "data URL or base64|addresses are not fetched|safetensors|no picture|not a picture", message
            )


def test_requests_have_ids_and_a_log_without_prompts(
    service: Callable[..., TestClient], caplog: pytest.LogCaptureFixture
) -> None:
    client = service()
    with caplog.at_level(logging.INFO, "versatile_diffusion.access"):
        answer = client.post(IMAGES, json=ASK, headers={"X-Request-ID": "mine-1"})
        assert answer.headers["x-request-id"] == "mine-1"
        strange = client.post(IMAGES, json={}, headers={"X-Request-ID": "a\tb"}).headers["x-request-id"]
        assert strange.startswith("req-")
    good, bad = [json.loads(line.message) for line in caplog.records]
    assert (
        good.items() >= {"id": "mine-1", "status": 200, "path": IMAGES, "items": 1, "steps": 3, "data": "image"}.items()
    )
    assert bad.items() >= {"id": strange, "status": 400}.items()
    assert "a cat" not in caplog.text

    caplog.clear()
    with caplog.at_level(logging.INFO, "versatile_diffusion.access"):
        service(log_prompts=True).post(IMAGES, json=ASK)
    assert json.loads(caplog.records[0].message)["prompts"] == ["a cat"]


def test_metrics(service: Callable[..., TestClient]) -> None:
    client = service()
    client.post(IMAGES, json=ASK)
    client.post(IMAGES, json={})
    figures = dict(line.rsplit(" ", 1) for line in client.get("/metrics").text.splitlines() if not line.startswith("#"))
    assert figures['versatile_requests_total{endpoint="/v1/images/generations",status="200"}'] == "1.0"
    assert figures['versatile_requests_total{endpoint="/v1/images/generations",status="400"}'] == "1.0"
    assert figures["versatile_pass_batch_size_count"] == figures["versatile_pass_seconds_count"] == "3.0"
    assert figures["versatile_queue_length"] == figures["versatile_running_items"] == "0.0"


def test_it_mounts_on_another_app(pipe: VersatileDiffusionPipeline) -> None:
    other, part = FastAPI(), serving.app(pipe, name="tiny", api_keys=[KEY])
    other.mount("/versatile", part)
    client = TestClient(other)
    assert client.get("/versatile/health").status_code == 200
    assert client.get("/versatile/v1/models").status_code == 401
    answer = client.post(f"/versatile{IMAGES}", json=ASK, headers={"Authorization": f"Bearer {KEY}"})
    assert len(answer.json()["data"]) == 1
    part.state.service.engine.close()


def test_it_says_when_it_stops(service: Callable[..., TestClient]) -> None:
    client = service()
    client.app.state.service.engine.close()  # type: ignore[attr-defined]
    assert client.get("/ready").status_code == 503
    assert client.get("/health").status_code == 200
    answer = client.post(IMAGES, json=ASK)
    assert "stopping" in problem(answer, 503)
    assert int(answer.headers["Retry-After"]) > 0


def test_openapi_describes_the_options(client: TestClient) -> None:
    """Every option of the table stands in the description, with its help."""
    from versatile_diffusion.controls import REQUEST

    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    described = schemas["Generate"]["properties"]
    wanted = {name: control for name, control in REQUEST.items() if not control.hidden}
    assert {name: described[name]["description"] for name in wanted} == {n: c.help for n, c in wanted.items()}
    assert "mixing" not in schemas["ImageGeneration"]["properties"], "it belongs to several conditions"
    assert "temperature" in schemas["ChatCompletion"]["properties"]


def test_addresses_and_keys(tmp_path: Any) -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "[::1]", "localhost", "0.0.0.0", "10.0.0.1")] == [
        *[True] * 4,
        False,
        False,
    ]
    assert hosts("0.0.0.0", []) == ["*"]
    assert "evil.example" not in hosts("127.0.0.1", [])
    (tmp_path / "keys.txt").write_text("key-number-1\nkey-number-2\n")
    assert keys_in(["key-number-0"], "from-the-variable", tmp_path / "keys.txt") == [
        "key-number-0",
        "from-the-variable",
        "key-number-1",
        "key-number-2",
    ]
    (tmp_path / "none.txt").write_text("\n")
    for wrong in ({"given": ["short"]}, {"file": tmp_path / "none.txt"}, {"file": tmp_path / "absent.txt"}):
        with pytest.raises(ValueError, match=r"fewer than 8|holds no key|cannot be read"):
            keys_in(**{"given": [], "variable": "", "file": None, **wrong})
