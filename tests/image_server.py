"""A web server on this machine that answers as the web does: images, redirects, errors, things that are no images."""

from __future__ import annotations

import io
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

import numpy as np
from PIL import Image


def image(number: int, kind: str = "JPEG", size: tuple[int, int] = (320, 300)) -> bytes:
    """The file of an image of its own."""
    levels = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(levels).resize(size).save(stream, kind)
    return stream.getvalue()


class Handler(BaseHTTPRequestHandler):
    """`/ok/N` and so on; what each path does stands in `do_GET`."""

    protocol_version = "HTTP/1.1"
    asked: ClassVar[Counter[str]] = Counter()
    busy: ClassVar[Counter[str]] = Counter()
    most: ClassVar[Counter[str]] = Counter()
    lock = threading.Lock()
    ended: ClassVar[threading.Event] = threading.Event()
    couple: ClassVar[threading.Barrier] = threading.Barrier(2, timeout=600)

    def do_GET(self) -> None:
        host = self.headers["Host"]
        with self.lock:
            self.asked[self.path] += 1
            self.busy[host] += 1
            self.most[host] = max(self.most[host], self.busy[host])
        self.waiting = True
        try:
            _, what, number = self.path.split("/")
            getattr(self, what)(int(number))
        except (BrokenPipeError, ConnectionResetError):
            pass
        finally:
            self.leave()

    def leave(self) -> None:
        """Count no longer: once it has its answer, the client may ask again before this thread goes on."""
        with self.lock:
            self.busy[self.headers["Host"]] -= self.waiting
            self.waiting = False

    def answer(self, body: bytes, kind: str = "image/jpeg", status: int = 200, **headers: str) -> None:
        self.leave()
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def ok(self, number: int) -> None:
        self.answer(image(number))

    def pair(self, number: int) -> None:
        """Answers when another one is asked for as well."""
        self.couple.wait()
        self.ok(number)

    def png(self, number: int) -> None:
        self.answer(image(number, "PNG"), "application/octet-stream")

    def moved(self, number: int) -> None:
        self.answer(b"", status=302, Location=f"/ok/{number}")

    def loop(self, number: int) -> None:
        self.answer(b"", status=301, Location=f"/loop/{number}")

    def gone(self, number: int) -> None:
        self.answer(b"", status=404)

    def later(self, number: int) -> None:
        """Busy at first, then there."""
        if self.asked[self.path] == 1:
            self.answer(b"", status=503, Retry_After="0")
        else:
            self.ok(number)

    def page(self, number: int) -> None:
        self.answer(b"<html>", "text/html")

    def lies(self, number: int) -> None:
        self.answer(b"<html>this is no image</html>")

    def cut(self, number: int) -> None:
        self.answer(image(number)[:400])

    def huge(self, number: int) -> None:
        self.answer(bytes(200_000))

    def thin(self, number: int) -> None:
        self.answer(image(number, size=(900, 100)))

    def small(self, number: int) -> None:
        self.answer(image(number, size=(192, 256)))

    def never(self, number: int) -> None:
        """Answers when the server ends."""
        self.ended.wait(600)
        self.answer(image(number))

    def local(self, number: int) -> None:
        """Leads from this server to a private address."""
        self.answer(b"", status=302, Location="http://10.0.0.1/x.jpg")

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serving() -> Iterator[str]:
    """Its address, while it runs."""
    for counts in (Handler.asked, Handler.busy, Handler.most):
        counts.clear()
    Handler.ended = threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        Handler.ended.set()
        server.shutdown()
        server.server_close()
