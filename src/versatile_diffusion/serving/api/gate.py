"""Access control before the endpoints: who may connect, how much they may send, and the log of all requests."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import secrets
import time
from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from versatile_diffusion.reading import DEEPEST
from versatile_diffusion.serving.api.errors import error_response
from versatile_diffusion.serving.api.metrics import Metrics
from versatile_diffusion.serving.clients import client_of

OPEN = ("/health", "/ready", "/docs", "/openapi.json")
"""Paths that need no key."""
MARKS = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[\[\]{}]', re.DOTALL)
"""Texts of JSON, which are passed over, and its brackets."""
MOST_MARKS = 200_000
REQUEST_ID = re.compile(r"[\w.:-]{1,100}", re.ASCII)
PORT = re.compile(r":\d+$", re.ASCII)
access = logging.getLogger("versatile_diffusion.access")


class RefusedError(Exception):
    """A request that goes no further. Args: status, message: of the answer."""

    def __init__(self, status: int, message: str, **headers: str):
        super().__init__(message)
        self.status, self.headers = status, headers


class Gate:
    """Lets requests in, and writes the log.

    Args:
        app: the app behind it.
        metrics: gets status and seconds of each request.
        keys: API keys, one of which a request must have; none are needed where there are none.
        hosts: names that are answered to; `*` stands for all.
        most: bytes of a body.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, keys: Sequence[str], hosts: Sequence[str], most: int):
        self.app, self.metrics, self.most, self.hosts = app, metrics, most, {host.lower() for host in hosts}
        self.keys = [key.encode() for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers, begun, status = Headers(scope=scope), time.monotonic(), [0]
        given = headers.get("x-request-id", "")
        number = given if REQUEST_ID.fullmatch(given) else f"req-{secrets.token_hex(12)}"
        state = scope.setdefault("state", {})
        state |= {"told": {}, "client": client_of((scope.get("client") or ("",))[0])}

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                status[0] = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = number
            await send(message)

        body = _Body(receive, self.most)
        try:
            key = self._key(scope, headers)
            if key:
                state["client"] = client_of(None, key)
            self._check_site(headers)
            await self.app(scope, await self._received(headers, body), answer)
        except RefusedError as refused:
            await body.drain()
            await error_response(refused.status, str(refused), refused.headers)(scope, receive, answer)
        finally:
            self._log(scope, number, status[0], time.monotonic() - begun)

    def _key(self, scope: Scope, headers: Headers) -> str:
        """The hash of the key that a request has; empty where none is needed."""
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if not self.keys or path in OPEN or scope["method"] == "OPTIONS":
            return ""
        scheme, _, key = headers.get("authorization", "").partition(" ")
        given = (key if scheme.lower() == "bearer" else headers.get("x-api-key", "")).strip().encode()
        right = [secrets.compare_digest(given, known) for known in self.keys]  # all, whichever is right
        if not any(right):
            raise RefusedError(401, "the API key is missing or wrong; send it as Authorization: Bearer KEY")
        return hashlib.sha256(given).hexdigest()[:16]

    def _check_site(self, headers: Headers) -> None:
        """Pages of other sites get nothing: neither by a name of theirs that leads to this machine, nor by forms, which
        a browser lets them send."""
        host, origin = headers.get("host", "").lower(), headers.get("origin")
        if "*" not in self.hosts and PORT.sub("", host) not in self.hosts:
            raise RefusedError(421, "this service does not answer to that host name")
        if origin and urlsplit(origin).netloc.lower() != host:
            raise RefusedError(403, "requests of other sites are not answered")

    async def _received(self, headers: Headers, body: _Body) -> Receive:
        """What receives the body: whole and looked through if it is JSON, else as it comes, up to the bound."""
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length[:18]) > self.most:
            raise RefusedError(413, f"the body has {length[:18]} bytes; at most {self.most} are allowed")
        if not headers.get("content-type", "").partition(";")[0].strip().lower().endswith("json"):
            return body
        held = bytearray()
        while not body.ended:
            message = await body()
            if message["type"] == "http.disconnect":
                return _replay(message, body)
            held += message.get("body", b"")
        check_depth(bytes(held))
        return _replay({"type": "http.request", "body": bytes(held), "more_body": False}, body)

    def _log(self, scope: Scope, number: str, status: int, seconds: float) -> None:
        endpoint = getattr(scope.get("route"), "path", "other")
        self.metrics.answered(endpoint, status or 499, seconds)
        if access.isEnabledFor(logging.INFO):
            line = {
                "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                "id": number,
                "client": scope["state"]["client"],
                "method": scope["method"],
                "path": scope["path"][:200],
                "status": status or 499,
                "ms": round(1000 * seconds, 1),
                **scope["state"]["told"],
            }
            access.info(json.dumps(line))


class _Body:
    """What receives the body of a request, as far as it may go.

    Args:
        receive: of the server.
        most: bytes that are taken.

    Attributes:
        ended: whether all of it is there.
    """

    def __init__(self, receive: Receive, most: int):
        self.receive, self.most, self.left, self.ended = receive, most, most, False

    async def __call__(self) -> Message:
        message = await self.receive()
        self.ended = self.ended or message["type"] == "http.disconnect" or not message.get("more_body", False)
        self.left -= len(message.get("body", b""))
        if self.left < 0:
            raise RefusedError(413, f"the body has more than {self.most} bytes, which is all that is allowed")
        return message

    async def drain(self) -> None:
        """Reads (and drops) what is left, as far as a body would be that is let in: whoever still sends, when the
        connection closes, never reads the answer."""
        left = self.most
        while not self.ended and left > 0:
            message = await self.receive()
            left -= len(message.get("body", b""))
            self.ended = not message.get("more_body", False)


def _replay(first: Message, receive: Receive) -> Receive:
    """A message that was received, and then what comes after it."""
    waiting = [first]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again


def check_depth(body: bytes) -> None:
    """RefusedError where JSON is too deep or has too many parts to be read."""
    depth = 0
    for number, mark in enumerate(MARKS.finditer(body)):
        depth += {b"[": 1, b"{": 1, b"]": -1, b"}": -1}.get(mark[0], 0)
        if depth > DEEPEST:
            raise RefusedError(400, f"the JSON is more than {DEEPEST} levels deep")
        if number > MOST_MARKS:
            raise RefusedError(400, f"the JSON has more than {MOST_MARKS} texts and brackets")
