"""What is let in: checked on a small service, and on the studio as it runs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("gradio", reason="gradio is not installed (extra 'ui')")

import httpx
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from versatile_diffusion import VersatileDiffusionPipeline
from versatile_diffusion.ui.page.gate import (
    MEGABYTE,
    Door,
    Hosts,
    SameOrigin,
    StudioGate,
    Unframed,
    allowed_names,
    is_loopback,
)
from versatile_diffusion.ui.page.guard import doors, forget_files
from versatile_diffusion.ui.queue.jobs import StudioLimits
from versatile_diffusion.ui.queue.throttle import Rate, Throttle
from versatile_diffusion.ui.serve import Running, running


async def echo(request: Request) -> JSONResponse:
    return JSONResponse({"size": len(await request.body())})


async def login(request: Request) -> PlainTextResponse:
    return PlainTextResponse("", 200 if await request.body() == b"right" else 400)


def service(*middleware: Middleware) -> TestClient:
    methods = ["GET", "POST", "PUT"]
    logins = [Route(path, login, methods=methods) for path in ("/login", "/login/")]
    routes = [*logins, Route("/{path:path}", echo, methods=methods)]
    return TestClient(Starlette(routes=routes, middleware=list(middleware)), base_url="http://127.0.0.1:7860")


@pytest.mark.parametrize(
    ("listening", "more", "host", "status"),
    [
        ("127.0.0.1", (), "127.0.0.1:7860", 200),
        ("127.0.0.1", (), "LOCALHOST:7860", 200),
        ("127.0.0.1", (), "localhost.", 200),
        ("127.0.0.1", (), "[::1]:7860", 200),
        ("127.0.0.1", (), "evil.example:7860", 421),
        ("127.0.0.1", (), "localhost.evil.example", 421),
        ("127.0.0.1", (), "127.0.0.1.evil.example", 421),
        ("127.0.0.1", (), "evil.example@127.0.0.1", 421),
        ("127.0.0.1", (), "192.168.1.5", 421),
        ("127.0.0.1", ("studio.example",), "Studio.Example:443", 200),
        ("127.0.0.1", ("studio.example",), "other.studio.example", 421),
        ("0.0.0.0", (), "192.168.1.5:7860", 200),
        ("0.0.0.0", (), "[2001:db8::5]:7860", 200),
        ("0.0.0.0", (), "rebound.example:7860", 421),
        ("::", (), "10.0.0.1", 200),
        ("10.0.0.1", (), "10.0.0.1", 200),
        ("box.lan", (), "box.lan:7860", 200),
        ("0.0.0.0", (), "", 421),
    ],
)
def test_hosts(listening: str, more: tuple[str, ...], host: str, status: int) -> None:
    client = service(Middleware(Hosts, names=allowed_names(listening, more)))
    assert client.get("/", headers={"Host": host}).status_code == status


def test_this_machine_is_called_by_its_name_where_it_is_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "Workshop")
    assert "workshop.local" in allowed_names("0.0.0.0", ())
    assert "workshop" not in allowed_names("127.0.0.1", ())


@pytest.mark.parametrize("name", ["http://a.example", "a.example:80", "a b", "", "*"])
def test_names_that_are_none(name: str) -> None:
    if name == "*":
        assert "evil.example" not in allowed_names("127.0.0.1", [name])  # no pattern, and nobody is called so
        return
    with pytest.raises(ValueError, match="--allow-host is"):
        allowed_names("127.0.0.1", [name])


LINK = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document", "Sec-Fetch-Site": "cross-site"}


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("POST", "/x", {}, 200),  # no browser
        ("POST", "/x", {"Origin": "http://127.0.0.1:7860"}, 200),
        ("POST", "/x", {"Origin": "http://evil.example"}, 403),
        ("POST", "/x", {"Origin": "null"}, 403),
        ("POST", "/x", {"Origin": "http://127.0.0.1:3000"}, 403),  # another service of this machine
        ("POST", "/x", {"Origin": "http://localhost:7860"}, 403),
        ("POST", "/x", {"Origin": "https://studio.example:8443"}, 200),
        ("GET", "/x", {"Origin": "http://evil.example"}, 403),
        ("PUT", "/x", {"Sec-Fetch-Site": "cross-site"}, 403),
        ("GET", "/x", {"Sec-Fetch-Site": "same-site"}, 403),
        ("GET", "/x", {"Sec-Fetch-Site": "same-origin"}, 200),
        ("GET", "/x", {"Sec-Fetch-Site": "none"}, 200),
        ("GET", "/", LINK, 200),
        ("POST", "/", LINK, 403),
        ("GET", "/logout", LINK, 403),
        ("GET", "/", {**LINK, "Sec-Fetch-Dest": "iframe"}, 403),
    ],
)
def test_same_origin(method: str, path: str, headers: dict[str, str], status: int) -> None:
    client = service(Middleware(SameOrigin, names=allowed_names("127.0.0.1", ["studio.example"])))
    assert client.request(method, path, headers=headers).status_code == status


def test_no_page_shows_it_inside() -> None:
    for client in (service(Middleware(Unframed)), service(Middleware(Unframed), Middleware(StudioGate, doors=()))):
        answer = client.get("/")
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Content-Security-Policy"] == "frame-ancestors 'none'"


def slow(burst: float) -> Throttle:
    return Throttle(Rate(burst, 1e-6))


def test_what_has_no_door_is_not_there() -> None:
    gate = Middleware(StudioGate, doors=[Door("GET", "/open|/open/.+")])
    client = service(gate)
    assert client.get("/open/a").status_code == 200
    assert client.get("/open/").status_code == 200
    for method, path in (("GET", "/"), ("POST", "/open"), ("GET", "/openly"), ("GET", "//open"), ("GET", "/x/open")):
        assert client.request(method, path).status_code == 404


def test_members_alone() -> None:
    some = [Door("GET", "/", public=True), Door("GET", "/inside")]
    client = service(
        Middleware(StudioGate, doors=some, member=lambda scope: b"k=1" in dict(scope["headers"]).get(b"cookie", b""))
    )
    assert client.get("/").status_code == 200
    assert client.get("/inside").status_code == 401
    assert client.get("/inside", headers={"Cookie": "k=1"}).status_code == 200


@pytest.mark.parametrize("path", ["/login", "/login/", "/%6cogin"])
def test_failed_attempts_are_counted_and_others_are_not(path: str) -> None:
    client = service(Middleware(StudioGate, doors=[Door("POST", "/login", throttle=slow(3), attempt=True)]))
    assert {client.post("/login", content="right").status_code for _ in range(9)} == {200}
    assert [client.post(path, content="wrong").status_code for _ in range(4)] == [400, 400, 400, 429]
    last = client.post(path, content="right", headers={"X-Forwarded-For": "192.0.2.1"})
    assert (last.status_code, int(last.headers["Retry-After"]) > 0) == (429, True)


def test_bodies_are_bounded_with_and_without_a_length() -> None:
    client = service(Middleware(StudioGate, doors=[Door("POST", "/", largest=1000)]))
    assert client.post("/", content=b"0" * 1000).json() == {"size": 1000}
    assert client.post("/", content=b"0" * 1001).status_code == 413
    assert client.post("/", content=iter([b"0" * 600] * 2)).status_code == 413
    assert client.post("/", content=iter([b"0" * 500] * 2)).json() == {"size": 1000}


def test_what_is_stored_is_counted_in_bytes() -> None:
    store = Door("POST", "/", throttle=slow(10 * MEGABYTE), stores=True, largest=6 * MEGABYTE)
    room = [100 * MEGABYTE]
    client = service(Middleware(StudioGate, doors=[store], room=lambda: room[0], least=MEGABYTE))
    assert client.post("/", content=iter([b"0"])).status_code == 411
    assert client.post("/", content=b"0" * 6 * MEGABYTE).status_code == 200
    assert client.post("/", content=b"0" * 6 * MEGABYTE).status_code == 429
    assert [client.post("/", content=b"0").status_code for _ in range(5)] == [200] * 4 + [429]
    room[0] = 0
    assert client.post("/", content=b"0").status_code == 507


def test_a_socket_of_another_site_is_closed() -> None:
    client = service(Middleware(Hosts, names=allowed_names("127.0.0.1", ())))
    with pytest.raises(WebSocketDisconnect) as caught, client.websocket_connect("/", headers={"Host": "evil.example"}):
        pass
    assert caught.value.code == 1008


def test_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.8.8.8", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "192.168.1.5", "evil.example", "localhost.evil.example")))


@pytest.fixture(scope="module")
def guarded(tiny_pipeline: VersatileDiffusionPipeline) -> Iterator[Running]:
    with running(tiny_pipeline, "tiny", auth=["ada:secret"], limits=StudioLimits(uploaded=6)) as started:
        yield started


@pytest.fixture
def ada(guarded: Running) -> Iterator[httpx.Client]:
    """A browser's client that has logged in."""
    with httpx.Client(base_url=guarded.url, trust_env=False, timeout=600) as client:
        assert client.post("login", data={"username": "ada", "password": "secret"}).status_code == 200
        yield client


def routes(app: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Every method and path of an app, those of its parts, too."""
    found = []
    for route in app.routes:
        inner = getattr(route, "routes", None) or getattr(getattr(route, "original_router", None), "routes", None)
        if inner:
            found += routes(type("Part", (), {"routes": inner}), prefix + getattr(route, "path", ""))
        elif getattr(route, "methods", None):
            path = re.sub(r"\{[^}]*\}", "x", prefix + route.path)
            found += [(method, path) for method in route.methods]
    return found


def test_routes_of_gradio_that_the_page_does_not_use_are_closed(guarded: Running, ada: httpx.Client) -> None:
    known = doors(StudioLimits())
    closed = [
        one for one in routes(guarded.page.app) if not any(d.fits(one[0], one[1].rstrip("/") or "/") for d in known)
    ]
    paths = {path for _, path in closed}
    assert {"/gradio_api/deep_link", "/gradio_api/call/x", "/gradio_api/component_server", "/openapi.json"} <= paths
    assert {"/gradio_api/proxy=x", "/gradio_api/cancel", "/gradio_api/process_recording", "/monitoring"} <= paths
    assert {f"{method} {path}": ada.request(method, path).status_code for method, path in closed} == {
        f"{method} {path}": 404 for method, path in closed
    }


def test_who_has_not_logged_in_gets_the_door_and_nothing_else(guarded: Running) -> None:
    public = {"/", "/login", "/logout", "/theme.css", "/favicon.ico", "/robots.txt", "/gradio_api/startup-events"}
    with httpx.Client(base_url=guarded.url, trust_env=False, timeout=600) as client:
        for method, path in sorted(set(routes(guarded.page.app))):
            answer = client.request(method, path)
            if path.rstrip("/") not in public | {""} and not path.startswith(("/static", "/assets")):
                assert answer.status_code in (401, 404), (method, path)
        assert "text-to-image" not in client.get("").text


def test_who_is_refused_can_read_why(guarded: Running) -> None:
    """Also where the refusal stands before much has been sent: a connection that is closed too early loses it."""
    files = {"files": ("a.png", b"0" * 24 * MEGABYTE)}
    with httpx.Client(base_url=guarded.url, trust_env=False, timeout=600) as client:
        for _ in range(4):
            answer = client.post("gradio_api/upload", files=files, headers={"Origin": "http://evil.example"})
            assert answer.status_code == 403
        assert client.post("gradio_api/upload", files=files).status_code == 401
        assert client.post("gradio_api/deep_link", files=files).status_code == 404


def test_a_page_of_another_site_does_nothing_here(guarded: Running, ada: httpx.Client) -> None:
    files = {"files": ("a.png", b"0")}
    assert ada.post("gradio_api/upload", files=files, headers={"Origin": "http://evil.example"}).status_code == 403
    assert ada.get("logout", headers={"Sec-Fetch-Site": "cross-site"}).status_code == 403
    assert ada.get("config", headers={"Host": f"evil.example:{guarded.page.server_port}"}).status_code == 421
    assert ada.get("", headers={"Origin": "http://evil.example"}).status_code == 403
    assert ada.get("config").status_code == 200  # still logged in
    assert ada.get("").headers["X-Frame-Options"] == "DENY"


def test_who_was_let_in_to_ask_hears_the_answer() -> None:
    """However many requests the same address has sent since: results have a rate of their own."""
    join, data = (
        next(door for door in doors(StudioLimits()) if door.fits(method, f"/gradio_api/queue/{name}"))
        for method, name in (("POST", "join"), ("GET", "data"))
    )
    assert join.throttle is not None
    assert data.throttle is not None
    while not join.throttle.take("192.0.2.1", 1):
        pass
    assert data.throttle.take("192.0.2.1", 1) == 0


def test_uploads_of_a_client_are_bounded_together(guarded: Running, ada: httpx.Client) -> None:
    content = b"0" * (5 * MEGABYTE // 2)
    sent = [ada.post("gradio_api/upload", files={"files": ("a.png", bytes([k]) + content)}) for k in range(5)]
    assert [answer.status_code for answer in sent] == [200, 200, 429, 429, 429]
    assert "Retry-After" in sent[-1].headers


def test_names_of_files_that_are_gone_are_forgotten(guarded: Running) -> None:
    (kept := guarded.folder / "kept").touch()
    names = guarded.page.upload_file_set
    names |= {str(kept), str(guarded.folder / "gone")}
    forget_files(guarded.page)
    assert str(kept) in names
    assert str(guarded.folder / "gone") not in names


def test_passwords_cannot_be_tried_out(guarded: Running) -> None:
    with httpx.Client(base_url=guarded.url, trust_env=False, timeout=600) as client:
        codes = [
            client.post(
                path, data={"username": "ada", "password": f"p{k}"}, headers={"X-Forwarded-For": f"192.0.2.{k}"}
            ).status_code
            for k, path in enumerate(["login", "login/"] * 15)
        ]
        assert set(codes) == {400, 429}
        assert codes.count(400) <= 11
        assert client.post("login", data={"username": "ada", "password": "secret"}).status_code == 429


def test_nothing_waits_beside_the_queue(studio: Running) -> None:
    run = next(number for number, function in studio.page.fns.items() if function.name == "run")
    body = json.dumps({"data": [], "fn_index": run, "session_hash": "beside"})
    with httpx.Client(base_url=studio.url, trust_env=False, timeout=600) as client:
        assert client.post("gradio_api/run/predict", content=body).status_code in (404, 422)
