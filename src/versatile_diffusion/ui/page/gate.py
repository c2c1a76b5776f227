"""Access checks in front of a service, as plain ASGI middleware for the studio and other services.

`Hosts` and `SameOrigin` block other sites' pages, `Unframed` prevents framing by other pages, and `StudioGate` defines
which requests exist, who may make them, how often, and their maximum size.
"""

from __future__ import annotations

import asyncio
import ipaddress
import math
import re
import socket
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from versatile_diffusion.printable import shown
from versatile_diffusion.serving.clients import client_of
from versatile_diffusion.ui.queue.throttle import Throttle

HOST = re.compile(r"(\[[0-9a-fA-F:.%]+\]|[^\[\]:/?#@\s]+)(:\d+)?")
HEADERS = {
    "X-Frame-Options": "DENY",
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
}
MEGABYTE = 1 << 20
DRAINED = 32 * MEGABYTE


def host_of(netloc: str | None) -> str | None:
    """Return the name or address in `name:port`, in lower case; None if neither."""
    found = HOST.fullmatch(netloc or "")
    return found[1].strip("[]").lower().rstrip(".") if found else None


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def is_loopback(host: str) -> bool:
    """Return whether a bind address or name is reachable from this machine only."""
    address = _address(host)
    return address.is_loopback if address else host == "localhost" or host.endswith(".localhost")


@dataclass(frozen=True)
class Names:
    """Host names that a service answers to; protects against DNS rebinding.

    Args:
        listening: bind address. If other machines can reach it, any IP address is accepted, since no name can be
            rebound to it, and so is this machine's name.
        more: additional names, e.g. of a reverse proxy.
    """

    listening: str
    more: frozenset[str] = frozenset()

    def __contains__(self, host: str | None) -> bool:
        if host is None:
            return False
        if host in self.more or host == self.listening or is_loopback(host):
            return True
        beyond = not is_loopback(self.listening)
        own = socket.gethostname().lower()
        return beyond and (_address(host) is not None or host in (own, f"{own}.local"))


class _Check:
    """Answer a request if `refuse` returns a response, else pass it on."""

    def __init__(self, app: ASGIApp):
        self.app = app

    def refuse(self, scope: Scope, headers: Headers) -> Response | None:
        raise AssertionError("subclasses implement refuse")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = self.refuse(scope, Headers(scope=scope)) if scope["type"] in ("http", "websocket") else None
        if answer is None:
            await self.app(scope, receive, send)
        else:
            await _respond(answer, scope, receive, send)


class Hosts(_Check):
    """Answer only requests for own host names.

    Args:
        app: the wrapped app.
        names: own names.
    """

    def __init__(self, app: ASGIApp, names: Names):
        super().__init__(app)
        self.names = names

    def refuse(self, scope: Scope, headers: Headers) -> Response | None:
        if host_of(headers.get("host")) in self.names:
            return None
        return _plain_response(421, "Unknown host; allow it with --allow-host NAME.")


class SameOrigin(_Check):
    """Refuse cross-site requests, except links to entrance pages.

    Browsers send the origin of a request (`Sec-Fetch-Site` or at least `Origin`); other clients send neither, but also
    no user's cookies.

    Args:
        app: the wrapped app.
        names: own names; pages of `names.more` are own on any port, since a proxy may hide it.
        entrances: paths that other sites may link to.
    """

    def __init__(self, app: ASGIApp, names: Names, entrances: Collection[str] = ("/",)):
        super().__init__(app)
        self.names, self.entrances = names, entrances

    def refuse(self, scope: Scope, headers: Headers) -> Response | None:
        if self._own(headers) or self._link(scope, headers):
            return None
        return _plain_response(403, "Cross-site requests are refused.")

    def _own(self, headers: Headers) -> bool:
        site, origin = headers.get("sec-fetch-site"), headers.get("origin")
        if site is not None:
            return site in ("same-origin", "none")
        if origin is None:
            return True
        netloc = origin.partition("://")[2].lower()
        return netloc == headers.get("host", "").lower() or host_of(netloc) in self.names.more

    def _link(self, scope: Scope, headers: Headers) -> bool:
        link = (headers.get("sec-fetch-mode"), headers.get("sec-fetch-dest")) == ("navigate", "document")
        return link and scope.get("method") in ("GET", "HEAD") and scope["path"] in self.entrances


class Unframed:
    """Add headers that forbid framing and content sniffing.

    Args:
        app: the wrapped app.
    """

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        await self.app(scope, receive, marked)


@dataclass(frozen=True)
class Door:
    """A kind of request that a service answers.

    Args:
        methods: allowed methods.
        path: regular expression for the whole path, without a trailing slash.
        public: whether it needs no login.
        throttle: rate limit per client, if any; doors may share one.
        attempt: whether only failures count, as for logins.
        stores: whether the body is stored, so that its bytes count and need free room.
        largest: maximum body size in bytes.
    """

    methods: str
    path: str
    public: bool = False
    throttle: Throttle | None = None
    attempt: bool = False
    stores: bool = False
    largest: int = 16 * MEGABYTE

    def fits(self, method: str, path: str) -> bool:
        return method in self.methods.split() and re.fullmatch(self.path, path) is not None


class StudioGate:
    """Admit requests that match a door; answer 404 to all others.

    Args:
        app: the wrapped app.
        doors: all doors.
        member: whether the sender of a request is logged in; None if no login is required.
        room: bytes that may still be stored.
        least: minimum bytes charged for a stored body.
    """

    def __init__(
        self,
        app: ASGIApp,
        doors: Iterable[Door],
        member: Callable[[Scope], bool] | None = None,
        room: Callable[[], int] | None = None,
        least: int = 2 * MEGABYTE,
    ):
        self.app, self.doors, self.member, self.room, self.least = app, tuple(doors), member, room, least

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        path = scope["path"].rstrip("/") or "/"
        door = next((door for door in self.doors if door.fits(scope.get("method", ""), path)), None)
        if door is None:
            return await _respond(_plain_response(404, "Not found."), scope, receive, send)
        if self.member is not None and not door.public and not self.member(scope):
            return await _respond(_plain_response(401, "Log in first."), scope, receive, send)
        try:
            amount = await self._amount(door, Headers(scope=scope))
            client = client_of((scope.get("client") or ("",))[0])
            self._take(door, client, amount)
        except HTTPException as error:
            return await _respond(_plain_response(error.status_code, error.detail, error.headers), scope, receive, send)

        async def counted(message: Message) -> None:
            if door.throttle and message["type"] == "http.response.start" and message["status"] < 400:
                door.throttle.give_back(client, amount)
            await send(message)

        await self.app(scope, _Bounded(receive, door.largest), counted if door.attempt else send)

    async def _amount(self, door: Door, headers: Headers) -> int:
        """Charge a request to its client's allowance."""
        length = headers.get("content-length", "")
        size = int(length) if length.isdecimal() else None
        if size is not None and size > door.largest:
            raise HTTPException(413, f"At most {door.largest // MEGABYTE} MB are allowed.")
        if not door.stores:
            return 1
        if size is None:
            raise HTTPException(411, "Content-Length is required.")
        if self.room is not None and size > await asyncio.to_thread(self.room):
            raise HTTPException(507, "Upload storage is full; try again later.")
        return max(size, self.least)

    def _take(self, door: Door, client: str, amount: int) -> None:
        wait = door.throttle.take(client, amount) if door.throttle else 0
        if wait:
            seconds = math.ceil(min(wait, 86_400))
            raise HTTPException(429, f"Too many requests; retry in {seconds} seconds.", {"Retry-After": str(seconds)})


class _Bounded:
    """Receives a request body up to its maximum size."""

    def __init__(self, receive: Receive, largest: int):
        self.receive, self.left = receive, largest

    async def __call__(self) -> Message:
        message = await self.receive()
        self.left -= len(message.get("body", b""))
        if self.left < 0:
            raise HTTPException(413, "The request is too large.")
        return message


def _plain_response(status: int, text: str, headers: Any = None) -> Response:
    return PlainTextResponse(f"{text}\n", status, headers)


async def _respond(answer: Response, scope: Scope, receive: Receive, send: Send) -> None:
    """Send an error response. The body is read first and dropped, up to the allowed size: a client that is still
    sending when the connection closes never reads the response."""
    if scope["type"] == "websocket":
        return await send({"type": "websocket.close", "code": 1008})
    left, more = DRAINED, "expect" not in Headers(scope=scope)
    while more and left > 0:
        message = await receive()
        left -= len(message.get("body", b""))
        more = message.get("more_body", False)
    return await answer(scope, receive, send)


def allowed_names(listening: str, more: Sequence[str]) -> Names:
    """Validate host names. Args: listening: bind address. more: names from --allow-host.

    Raises:
        ValueError: an invalid name.
    """
    for name in more:
        if host_of(name) != name.lower().rstrip("."):
            raise ValueError(
                f"--allow-host is {shown(name)}; it must be a host name without a port, e.g. studio.example.org"
            )
    return Names(listening.strip("[]").lower(), frozenset(name.lower().rstrip(".") for name in more))
