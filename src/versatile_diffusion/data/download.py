"""Download images by URL: bounded in size, time and redirects, and from public addresses only unless allowed."""

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
"""Maximum delay before a retry in seconds, whatever the server asks for."""


@dataclass(frozen=True)
class DownloadLimits:
    """Limits of a download.

    Args:
        timeout: seconds per attempt.
        retries: further attempts after a temporary failure (timeouts, lost connections, busy servers).
        backoff: delay before the first retry in seconds; doubled for each further one.
        redirects: maximum number.
        size: maximum size in bytes.
        at_once: concurrent downloads.
        per_host: concurrent downloads from one host.
        private: whether loopback and private network addresses are allowed.
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
    """A failed download.

    Args:
        reason: category, for the ledger.
        more: details.
        again: whether a retry may succeed.
        wait: delay in seconds that the server asks for before a retry.
    """

    def __init__(self, reason: str, more: str = "", again: bool = False, wait: float = 0.0):
        super().__init__(f"{reason}: {more}" if more else reason)
        self.reason, self.again, self.wait = reason, again, wait


@dataclass(frozen=True)
class Downloaded:
    """The bytes at a URL, and the number of redirects followed."""

    data: bytes
    redirects: int


class _PublicOnly(httpcore.AsyncNetworkBackend):
    """Network backend for public addresses only. It connects to the address that it checked, so a second DNS answer
    cannot redirect it (DNS rebinding)."""

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
    """A host has a private address."""


def is_public(address: str) -> bool:
    """Whether an IP address is globally routable."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return ip.is_global and not ip.is_multicast


@dataclass
class Downloader:
    """Downloads within limits over pooled connections. An asynchronous context manager."""

    limits: DownloadLimits
    tries: Counter[str] = field(default_factory=Counter)

    async def __aenter__(self) -> Downloader:
        transport = httpx.AsyncHTTPTransport(
            limits=httpx.Limits(max_connections=self.limits.at_once, max_keepalive_connections=self.limits.at_once)
        )
        if not self.limits.private:
            # httpx has no argument for the network backend of its pool.
            transport._pool._network_backend = _PublicOnly()  # type: ignore[attr-defined]
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
        """Download a URL.

        Raises:
            FailedError: it failed, or exceeds a limit.
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
        """One attempt, following redirects."""
        for hop in range(self.limits.redirects + 1):
            where = _parse_url(url)
            host = self._hosts.setdefault(where.host, asyncio.Semaphore(self.limits.per_host))
            async with host:
                answer = await self._once(where)
            if isinstance(answer, bytes):
                return Downloaded(answer, hop)
            url = answer
        raise FailedError("too many redirects", f"more than {self.limits.redirects}")

    async def _once(self, url: httpx.URL) -> bytes | str:
        """The body of a response, or the URL that it redirects to."""
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


def _parse_url(url: str) -> httpx.URL:
    """Parse a URL; only http and https are accepted."""
    try:
        where = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise FailedError("bad URL", str(error)) from error
    if where.scheme not in ("http", "https") or not where.host:
        raise FailedError("bad URL", f"scheme {shown(where.scheme)}")
    return where


def _asked_to_wait(headers: Mapping[str, str]) -> float:
    """Delay in seconds from the `Retry-After` header."""
    given = headers.get("retry-after", "")
    return float(given) if given.isdigit() else 0.0
