"""The service as a process: it listens, drains on a stop signal, and exits with code 0."""

from __future__ import annotations

import ipaddress
import logging
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI

from versatile_diffusion.serving.api.gate import access

LOOPBACK = ("localhost", "127.0.0.1", "::1", "[::1]")
KEYS = "VERSATILE_API_KEY"
"""Environment variable of API keys, separated by commas or line breaks."""
FLUSH = 10
"""Seconds that open connections have to be answered once all work is done."""


def is_loopback(host: str) -> bool:
    """Whether an address is of this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def hosts(listening: str, more: Sequence[str]) -> list[str]:
    """Host names that are answered to: on a loopback address those of this machine, since a page of the web can have a
    name that leads to it; and those that were given. Elsewhere all, unless some were given."""
    if is_loopback(listening):
        return [*LOOPBACK, listening, *more]
    return [listening, *LOOPBACK, *more] if more else ["*"]


def keys_in(given: Sequence[str], variable: str, file: Path | None) -> list[str]:
    """API keys of options, of the environment variable, and of a file with one a line.

    Raises:
        ValueError: the file cannot be read or holds none, or a key is too short to be one.
    """
    written: list[str] = []
    if file is not None:
        try:
            written = file.read_text(encoding="utf-8-sig").split()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"--api-key-file {file} cannot be read ({error})") from error
        if not written:
            raise ValueError(f"--api-key-file {file} holds no key; it must have one a line")
    keys = [*given, *variable.replace(",", " ").split(), *written]
    if any(len(key) < 8 for key in keys):
        raise ValueError("an API key has fewer than 8 characters; take a longer one")
    return keys


class Server(uvicorn.Server):
    """Serves an app until a stop signal. Then no new work is taken (`/ready` says so), what runs has its grace,
    and all answers are sent before it ends; a second signal ends it at once."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Unlike uvicorn's, it does not raise the signals again, so the exit code is 0."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        names = (signal.SIGINT, signal.SIGTERM)
        before = {name: signal.signal(name, self._told) for name in names}
        try:
            yield
        finally:
            for name, handler in before.items():
                signal.signal(name, handler)

    def _told(self, number: int, frame: FrameType | None) -> None:
        if self._draining:
            self.should_exit = self.force_exit = True
            return
        self._draining = True
        threading.Thread(target=self._drain, name="versatile-drain", daemon=True).start()

    _draining = False

    def _drain(self) -> None:
        engine = self.config.app.state.service.engine  # type: ignore[union-attr]
        engine.close(engine.limits.grace)
        self.should_exit = True


def serve(api: FastAPI, host: str, port: int) -> None:
    """Serves an app on an address until SIGTERM or Ctrl+C. The access log goes to stderr, a line of JSON a request.

    Raises:
        ValueError: the address cannot be listened at.
    """
    if not access.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(message)s"))
        access.addHandler(handler)
        access.setLevel(logging.INFO)
        access.propagate = False
    options = {"log_level": "warning", "access_log": False, "server_header": False, "timeout_graceful_shutdown": FLUSH}
    server = Server(uvicorn.Config(api, host=host, port=port, **options))  # type: ignore[arg-type]
    try:
        server.run()
    except SystemExit as end:  # uvicorn has said why
        raise ValueError(f"{host}:{port} cannot be listened at; is another program there?") from end
