"""Starting the studio: one model, one temporary folder, nothing that leaves the machine."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from versatile_diffusion.ui.jobs import Limits

if TYPE_CHECKING:
    from versatile_diffusion import VersatileDiffusionPipeline

LOOPBACK = ("127.0.0.1", "localhost", "::1")
QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_DISABLE_TELEMETRY": "1", "GRADIO_SHARE": "False"}


@dataclass(frozen=True)
class Running:
    """A studio that runs.

    Args:
        url: where.
        page: the app.
        folder: of uploads and results.
    """

    url: str
    page: Any
    folder: Path
    studio: Any


def logins(given: Sequence[str]) -> list[tuple[str, str]] | None:
    """Names and passwords of `NAME:PASSWORD`; None if there are none.

    Raises:
        ValueError: one of them has no colon, no name or no password.
    """
    pairs = [tuple(one.split(":", 1)) for one in given]
    if any(len(pair) != 2 or not all(pair) for pair in pairs):
        raise ValueError("--auth is NAME:PASSWORD, with a name and a password")
    return [(name, password) for name, password in pairs] or None


@contextmanager
def running(
    pipe: VersatileDiffusionPipeline,
    model: str,
    *,
    host: str = "127.0.0.1",
    port: int | None = None,
    auth: Sequence[str] = (),
    limits: Limits | None = None,
    open_browser: bool = False,
) -> Iterator[Running]:
    """The studio for as long as the context lasts; then its folder is gone.

    Args:
        pipe: the model.
        model: how it was asked for.
        host: the address to listen at; others than this machine reach it only where this says so.
        port: the first free one from 7860 where left out.
        auth: who may come in, `NAME:PASSWORD` each; everybody who reaches the address if empty.
        limits: see `Limits`.
        open_browser: opens it in this machine's browser.
    """
    pairs, limits = logins(auth), limits or Limits()
    quiet = {**QUIET, "NO_PROXY": ",".join([*LOOPBACK, *filter(None, [os.environ.get("NO_PROXY")])])}
    before = {name: os.environ.get(name) for name in (*quiet, "GRADIO_TEMP_DIR")}
    with tempfile.TemporaryDirectory(prefix="versatile-ui-", ignore_cleanup_errors=True) as folder:
        os.environ.update(quiet, GRADIO_TEMP_DIR=folder)  # read by gradio when it makes components
        try:
            yield from _launched(pipe, model, Path(folder), host, port, pairs, limits, open_browser)
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


def _launched(
    pipe: VersatileDiffusionPipeline,
    model: str,
    folder: Path,
    host: str,
    port: int | None,
    pairs: list[tuple[str, str]] | None,
    limits: Limits,
    open_browser: bool,
) -> Iterator[Running]:
    from versatile_diffusion.ui.desk import Desk
    from versatile_diffusion.ui.page import Studio, build, head
    from versatile_diffusion.ui.shelf import Shelves
    from versatile_diffusion.ui.theme import theme
    from versatile_diffusion.ui.widgets import asset

    desk = Desk(pipe, limits)
    studio = Studio(desk, Shelves(folder, model, limits.kept), pipe.model_name)
    page = build(studio)
    try:
        _, url, _ = page.launch(
            server_name=host,
            server_port=port,
            auth=pairs,
            share=False,
            inbrowser=open_browser,
            prevent_thread_lock=True,
            quiet=True,
            show_error=False,
            max_file_size=f"{limits.megabytes}mb",
            footer_links=[],
            ssr_mode=False,
            pwa=False,
            enable_monitoring=False,
            mcp_server=False,
            run_history=False,
            _frontend=False,  # no check whether the page answers in 3 seconds: a busy machine is not a broken one
            theme=theme(),
            css=asset("studio.css"),
            head=head(),
        )
        yield Running(url, page, folder, studio)
    finally:
        desk.close()
        page.close(verbose=False)
