"""Running the studio: one model, one temporary folder, no external requests."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING, Any

from versatile_diffusion.printable import shown
from versatile_diffusion.ui.page.gate import (
    MEGABYTE,
    Hosts,
    Names,
    SameOrigin,
    StudioGate,
    Unframed,
    allowed_names,
    is_loopback,
)
from versatile_diffusion.ui.queue.jobs import StudioLimits
from versatile_diffusion.ui.queue.store import RESULTS, remove_leftovers, studio_folder, used_bytes

if TYPE_CHECKING:
    from versatile_diffusion import VersatileDiffusionPipeline
    from versatile_diffusion.serving.engine import Engine
    from versatile_diffusion.ui.page.studio import Studio

logger = logging.getLogger(__name__)
TIDY_EVERY = 60  # seconds
SWITCH_AFTER = 1.0  # seconds in which the page is answered before it is closed
BROKEN_OFF = 3600  # seconds after which an unfinished upload is abandoned
AUTH = "VERSATILE_AUTH"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "GRADIO_SHARE": "False"}


@dataclass
class Running:
    """A running studio; page and studio change when another model is loaded.

    Args:
        url: its address.
        page: the gradio app.
        folder: folder of uploads and results.
    """

    url: str
    page: Any
    folder: Path
    studio: Any


@dataclass(frozen=True)
class Address:
    """Where the studio listens.

    Args:
        host: bind address; by default only this machine can connect.
        port: port; by default the first free one from 7860.
        allow_hosts: additional host names, e.g. of a reverse proxy.
    """

    host: str = "127.0.0.1"
    port: int | None = None
    allow_hosts: Sequence[str] = ()


def logins(given: Sequence[str]) -> list[tuple[str, str]] | None:
    """Parse logins of the form `NAME:PASSWORD`; None if there are none.

    Raises:
        ValueError: a missing colon, name or password, or a repeated name.
    """
    pairs = [tuple(part.strip(" ") for part in one.split(":", 1)) for one in given]
    if any(len(pair) != 2 or not all(pair) for pair in pairs):
        raise ValueError("a login must be NAME:PASSWORD")
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("two logins have the same name; names must be unique")
    return [(name, password) for name, password in pairs] or None


def written_logins(file: Path | None) -> list[str]:
    """Read logins that must not be visible on the command line: from a file and from the variable VERSATILE_AUTH, one
    per line; lines starting with # are comments.

    Raises:
        ValueError: an unreadable file, or one without logins.
    """
    lines = _logins_in(os.environ.get(AUTH, ""))
    if file is not None:
        try:
            of_file = _logins_in(file.read_text(encoding="utf-8-sig"))
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"--auth-file {file} cannot be read ({error})") from error
        if not of_file:
            raise ValueError(f"--auth-file {file} contains no logins; it must have lines of NAME:PASSWORD")
        lines += of_file
    return lines


def _logins_in(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


@contextmanager
def running(
    pipe: VersatileDiffusionPipeline | Engine,
    model: str,
    *,
    address: Address | None = None,
    auth: Sequence[str] = (),
    limits: StudioLimits | None = None,
    open_browser: bool = False,
    out: Path | None = None,
    choice: StudioModels | None = None,
) -> Iterator[Running]:
    """Run the studio while the context lasts; its folder is removed at the end.

    Args:
        pipe: the pipeline; or an engine that has it and serves others besides.
        model: name of the model as given.
        address: where it listens; by default where only this machine can connect.
        auth: logins, `NAME:PASSWORD` each; none lets in anyone who can connect.
        limits: see `StudioLimits`.
        open_browser: whether to open it in a browser.
        out: folder in which all results are saved; None keeps them until their page is closed. Visitors see only their
            own results in it, unless this machine alone can connect and no logins are required.
        choice: models and adapters that may be loaded while it runs, where this machine alone can connect.
    """
    pairs, limits, address = logins(auth), limits or StudioLimits(), address or Address()
    names = allowed_names(address.host, address.allow_hosts)
    quiet = {**QUIET, "NO_PROXY": ",".join([*LOOPBACK, *filter(None, [os.environ.get("NO_PROXY")])])}
    # Proxies whose forwarded client addresses uvicorn trusts: none, unless the variable is set.
    quiet["FORWARDED_ALLOW_IPS"] = os.environ.get("FORWARDED_ALLOW_IPS", "")
    before = {name: os.environ.get(name) for name in (*quiet, "GRADIO_TEMP_DIR")}
    with studio_folder() as folder:
        os.environ.update(quiet, GRADIO_TEMP_DIR=str(folder))  # read by gradio when components are created
        server = _Server(folder, names, address.port, pairs, limits, out, choice)
        try:
            yield server.open(pipe, model, open_browser)
        finally:
            server.close()
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


@dataclass(frozen=True)
class StudioModels:
    """What may be loaded while the studio runs.

    Args:
        models: names or folders, with that of the first model.
        loras: folder of adapters.
        load: loads one of the models.
    """

    models: Sequence[str] = ()
    loras: Path | None = None
    load: Callable[[str], VersatileDiffusionPipeline] | None = None


@dataclass
class _Server:
    """The studio's server, which can be opened again with another model."""

    folder: Path
    names: Names
    port: int | None
    pairs: list[tuple[str, str]] | None
    limits: StudioLimits
    out: Path | None
    choice: StudioModels | None
    running: Running | None = None

    @property
    def alone(self) -> bool:
        """Whether this machine alone can connect, and anyone on it may."""
        return is_loopback(self.names.listening) and not self.pairs and not self.names.more

    def open(self, pipe: VersatileDiffusionPipeline | Engine, model: str, browser: bool = False) -> Running:
        """Build the page of a model, and serve it."""
        studio = self._studio(pipe, model)
        try:
            page, url = _launch(studio, self.folder, self.names, self.port, self.pairs, browser)
        except BaseException:
            studio.desk.close()
            raise
        if self.running is None:
            self.running = Running(url, page, self.folder, studio)
        self.running.page, self.running.studio, self.port = page, studio, page.server_port
        return self.running

    def close(self) -> None:
        """Stop serving, and the engine if it is the studio's own."""
        if self.running is not None:
            self.running.page.close(verbose=False)
            self.running.studio.desk.close()

    def switch(self, model: str) -> None:
        """Load another model; then, once the page has been answered, open the page again with it.

        Raises:
            ValueError: it is not among the models that may be chosen, or cannot be loaded; all stays as it is.
        """
        if self.choice is None or self.choice.load is None or model not in self.choice.models:
            raise ValueError(f"{shown(model)} is not among the models of this studio")
        pipe = self.choice.load(model)

        before = self.running.studio if self.running else None

        def again() -> None:
            self.close()
            try:
                self.open(pipe, model)
            except Exception:
                logger.exception("the studio could not be opened with %s", model)
                if before is not None:
                    self.open(before.desk.pipe, before.shelves.model)

        Timer(SWITCH_AFTER, again).start()

    def _studio(self, pipe: VersatileDiffusionPipeline | Engine, model: str) -> Studio:
        from versatile_diffusion.serving.engine import Engine
        from versatile_diffusion.ui.page.desk import Desk
        from versatile_diffusion.ui.page.kept import Kept
        from versatile_diffusion.ui.page.models import AllowedModels
        from versatile_diffusion.ui.page.shelf import Shelves
        from versatile_diffusion.ui.page.studio import Studio
        from versatile_diffusion.ui.queue.adapters import adapters_in

        limits, shared, choices = self.limits, isinstance(pipe, Engine), AllowedModels()
        kept = None if self.out is None else Kept(self.out.absolute(), self.folder, shared=self.alone)
        if self.choice is not None and self.alone and not shared:
            able = self.switch if self.choice.load is not None else None
            choices = AllowedModels(tuple(self.choice.models), adapters_in(self.choice.loras), able)
        desk = Desk(pipe.pipe, limits, pipe) if isinstance(pipe, Engine) else Desk(pipe, limits)
        shelves = Shelves(self.folder / RESULTS, model, limits.kept, limits.visitors, limits.stored * MEGABYTE // 2)
        return Studio(desk, shelves, desk.pipe.model_name, kept, choices=choices)


def _launch(
    studio: Studio, folder: Path, names: Names, port: int | None, pairs: list[tuple[str, str]] | None, browser: bool
) -> tuple[Any, str]:
    """Build the page, and serve it; return both page and address."""
    from versatile_diffusion.ui.forms.widgets import asset
    from versatile_diffusion.ui.page.guard import slim_sessions
    from versatile_diffusion.ui.page.page import build, head
    from versatile_diffusion.ui.page.theme import theme

    limits = studio.desk.limits
    page = build(studio)
    _, url, _ = page.launch(
        server_name=names.listening,
        server_port=port,
        auth=pairs,
        share=False,
        inbrowser=browser,
        prevent_thread_lock=True,
        quiet=True,
        show_error=False,
        max_file_size=f"{limits.megabytes}mb",
        state_session_capacity=limits.visitors,
        app_kwargs=_protection(studio, page, folder, names, bool(pairs)),
        footer_links=[],
        ssr_mode=False,
        pwa=False,
        enable_monitoring=False,
        mcp_server=False,
        run_history=False,
        _frontend=False,  # skip the check that the page answers within 3 s, which fails on a busy machine
        theme=theme(),
        css=asset("studio.css"),
        head=head(),
    )
    slim_sessions(page)
    return page, url


def _protection(studio: Studio, page: Any, folder: Path, names: Names, members: bool) -> dict[str, Any]:
    """Return the middleware in front of the app and its background tasks."""
    from starlette.middleware import Middleware

    from versatile_diffusion.ui.page.guard import doors, forget_files, forget_sessions, has_logged_in

    limits = studio.desk.limits

    def room() -> int:
        return limits.stored * MEGABYTE - used_bytes(folder)

    def tidy() -> None:
        forget_sessions(page, limits.hours)
        studio.shelves.remove_unused(limits.hours * 3600)
        remove_leftovers(folder, limits.hours * 3600, BROKEN_OFF)
        forget_files(page)

    async def keep_tidy() -> None:
        while True:
            await asyncio.sleep(TIDY_EVERY)
            await asyncio.to_thread(tidy)

    @asynccontextmanager
    async def lifespan(app: Any) -> AsyncIterator[None]:
        task = asyncio.create_task(keep_tidy())
        yield
        task.cancel()

    before = [
        Middleware(Unframed),
        Middleware(Hosts, names=names),
        Middleware(SameOrigin, names=names),
        Middleware(StudioGate, doors=doors(limits), member=has_logged_in if members else None, room=room),
    ]
    return {"middleware": before, "lifespan": lifespan}
