"""Downloads one image by its URL: bounded in size, time and redirects, never from a private address unless allowed."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpcore
import httpx

from versatile_diffusion.printable import shown
from versatile_diffusion.version import __version__

AGENT = f"versatile-diffusion/{__version__}"
TRY_AGAIN = {408, 425, 429, 500, 502, 503, 504}
LONGEST_WAIT = 30.0
"""Seconds before another try, whatever a server asks for."""


@dataclass(frozen=True)
class DownloadLimits:
    """What a download may take.

    Args:
        timeout: seconds for a whole try.
        retries: further tries after a failure that may pass (timeouts, lost connections, busy servers).
        backoff: seconds before the first further try, twice as many before each next one.
        redirects: hops at most.
        size: bytes at most.
        at_once: downloads at the same time.
        per_host: of these, from one host.
        private: whether addresses of this machine and of private networks are allowed.
    """

    timeout: float = 20.0
    retries: int = 2
    backoff: float = 0.5
    redirects: int = 5
    size: int = 20 << 20
    at_once: int = 64
    per_host: int = 4
    private: bool = False

    def __post_init__(self) -> None:
        for name in ("timeout", "size", "at_once", "per_host"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be above 0")
        for name in ("retries", "backoff", "redirects"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more")


class FailedError(Exception):
    """A download that came to nothing.

    Args:
        reason: one of few, to be counted.
        more: what happened.
        again: whether another try may succeed.
        wait: seconds that the server asks for before it.
    """

    def __init__(self, reason: str, more: str = "", again: bool = False, wait: float = 0.0):
        super().__init__(f"{reason}: {more}" if more else reason)
        self.reason, self.again, self.wait = reason, again, wait


@dataclass(frozen=True)
class Downloaded:
    """The bytes at a URL, and how many redirects led to them."""

    data: bytes
    redirects: int


class _PublicOnly(httpcore.AsyncNetworkBackend):
    """Connects to public addresses alone. The address that is checked is the one that is connected to, so that a name
    cannot change its mind in between."""

    def __init__(self) -> None:
        self._inner = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError as error:
            raise httpcore.ConnectError(f"no address of {host}") from error
        addresses = [entry[4][0] for entry in found]
        if bad := [address for address in addresses if not is_public(str(address))]:
            raise PrivateAddressError(f"{host} is at {bad[0]}")
        return await self._inner.connect_tcp(str(addresses[0]), port, timeout, local_address, socket_options)


class PrivateAddressError(Exception):
    """A host lies in a private network."""


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the internet at large."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return ip.is_global and not ip.is_multicast


@dataclass
class Downloader:
    """Downloads within limits, over connections that are kept. An asynchronous context manager."""

    limits: DownloadLimits
    tries: Counter[str] = field(default_factory=Counter)

    async def __aenter__(self) -> Downloader:
        transport = httpx.AsyncHTTPTransport(
            limits=httpx.Limits(max_connections=self.limits.at_once, max_keepalive_connections=self.limits.at_once)
        )
        if not self.limits.private:
            # httpx passes no network backend on to the pool that it makes.
            transport._pool._network_backend = _PublicOnly()
        self._client = httpx.AsyncClient(
            transport=transport,
            timeout=self.limits.timeout,
            follow_redirects=False,
            headers={"User-Agent": AGENT, "Accept": "image/*,*/*;q=0.5"},
            trust_env=False,
        )
        self._hosts: dict[str, asyncio.Semaphore] = {}
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    async def get(self, url: str) -> Downloaded:
        """The bytes at a URL.

        Raises:
            FailedError: there are none within the limits.
        """
        wait = self.limits.backoff
        for left in range(self.limits.retries, -1, -1):
            try:
                async with asyncio.timeout(self.limits.timeout):
                    return await self._follow(url)
            except TimeoutError:
                failure = FailedError("timeout", f"after {self.limits.timeout:g} s", again=True)
            except FailedError as error:
                failure = error
            if not (failure.again and left):
                raise failure
            self.tries[failure.reason] += 1
            await asyncio.sleep(min(max(wait, failure.wait), LONGEST_WAIT))
            wait *= 2
        raise AssertionError("unreachable")

    async def _follow(self, url: str) -> Downloaded:
        """One try, through all redirects."""
        for hop in range(self.limits.redirects + 1):
            where = _checked(url)
            host = self._hosts.setdefault(where.host, asyncio.Semaphore(self.limits.per_host))
            async with host:
                answer = await self._once(where)
            if isinstance(answer, bytes):
                return Downloaded(answer, hop)
            url = answer
        raise FailedError("too many redirects", f"more than {self.limits.redirects}")

    async def _once(self, url: httpx.URL) -> bytes | str:
        """The bytes at a URL, or the URL that it redirects to."""
        try:
            async with self._client.stream("GET", url) as answer:
                if answer.is_redirect:
                    return str(url.join(answer.headers["location"]))
                if answer.status_code != 200:
                    raise FailedError(
                        f"HTTP {answer.status_code}",
                        "",
                        answer.status_code in TRY_AGAIN,
                        _asked_to_wait(answer.headers),
                    )
                self._check_head(answer.headers)
                return await self._body(answer)
        except PrivateAddressError as error:
            raise FailedError("private address", str(error)) from error
        except httpx.TimeoutException as error:
            raise FailedError("timeout", type(error).__name__, again=True) from error
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, ValueError) as error:
            raise FailedError("bad URL", str(error)) from error
        except httpx.HTTPError as error:
            raise FailedError("connection", f"{type(error).__name__} {error}".strip(), again=True) from error

    def _check_head(self, headers: httpx.Headers) -> None:
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind and not kind.startswith("image/") and kind not in ("application/octet-stream", "binary/octet-stream"):
            raise FailedError("not an image", kind)
        length = headers.get("content-length", "")
        if length.isdigit() and int(length) > self.limits.size:
            raise FailedError("too large", f"{length} bytes")

    async def _body(self, answer: httpx.Response) -> bytes:
        parts, size = [], 0
        async for part in answer.aiter_bytes():
            size += len(part)
            if size > self.limits.size:
                raise FailedError("too large", f"more than {self.limits.size} bytes")
            parts.append(part)
        return b"".join(parts)


def _checked(url: str) -> httpx.URL:
    """The URL, if it is one of the web."""
    try:
        where = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise FailedError("bad URL", str(error)) from error
    if where.scheme not in ("http", "https") or not where.host:
        raise FailedError("bad URL", f"scheme {shown(where.scheme)}")
    return where


def _asked_to_wait(headers: Mapping[str, str]) -> float:
    """Seconds, from `Retry-After`."""
    given = headers.get("retry-after", "")
    return float(given) if given.isdigit() else 0.0
