"""`versatile ui`: the studio in a browser."""

from __future__ import annotations

import signal
import threading
from contextlib import suppress
from typing import Annotated

import typer

from versatile_diffusion.cli.console import note, show, show_json
from versatile_diffusion.cli.options import Device, Json, Model


def ui(
    model: Model = "emoji",
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="First free one from 7860 if left out.")] = None,
    auth: Annotated[
        list[str] | None, typer.Option(metavar="NAME:PASSWORD", help="Who may come in; may repeat.")
    ] = None,
    browser: Annotated[bool, typer.Option("--open", help="Open it in the browser of this machine.")] = False,
    device: Device = None,
    json: Json = False,
) -> None:
    """Open the studio: every task of the model in a browser, with nothing fetched from or sent to anywhere else.

    Only this machine can reach it, unless --host says otherwise. Ctrl+C ends it.
    """
    from versatile_diffusion.cli.model import load

    try:
        from versatile_diffusion.ui.serve import LOOPBACK, logins, running
    except ImportError as error:
        raise ValueError(f"the studio needs the extra 'ui': pip install 'versatile-diffusion[ui]' ({error})") from error

    logins(auth or ())
    pipe = load(model, device)
    with running(pipe, model, host=host, port=port, auth=auth or (), open_browser=browser) as studio:
        show_json({"url": studio.url}) if json else show(studio.url)
        if host not in LOOPBACK and not auth:
            note("everybody who reaches this address can use it; --auth NAME:PASSWORD asks for a name and a password")
        note("Ctrl+C ends it")
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # what stops a service clears up, too
        with suppress(KeyboardInterrupt):
            threading.Event().wait()
