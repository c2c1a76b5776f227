"""`versatile ui`: the studio in the browser."""

from __future__ import annotations

import signal
import threading
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from versatile_diffusion.cli.io.console import note, show, show_json
from versatile_diffusion.cli.io.files import check_folder
from versatile_diffusion.cli.options import Device, Dtype, Json, Model

Host = Annotated[str, typer.Option(help="Address to bind; 0.0.0.0 accepts other machines.")]
Port = Annotated[int | None, typer.Option(min=1, max=65535, help="Port; default: first free port from 7860.")]
Auth = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME:PASSWORD", help="Login; repeatable. Visible to other users of this machine."),
]
AuthFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="File of logins, one NAME:PASSWORD per line; or set VERSATILE_AUTH."),
]
AllowHost = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Additional host name to accept, e.g. a proxy's; repeatable."),
]
Out = Annotated[Path, typer.Option(metavar="DIR", help="Folder in which every result is saved with its settings.")]
NoSave = Annotated[bool, typer.Option("--no-save", help="Save nothing; results last as long as their page.")]
Also = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Further model that can be loaded from the page; repeatable."),
]
Loras = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Folder of LoRA adapters that can be loaded from the page.")
]
Browser = Annotated[bool, typer.Option("--open", help="Open the studio in a browser.")]


def ui(
    model: Model = "emoji",
    host: Host = "127.0.0.1",
    port: Port = None,
    auth: Auth = None,
    auth_file: AuthFile = None,
    allow_host: AllowHost = None,
    out: Out = Path("outputs"),
    no_save: NoSave = False,
    also: Also = None,
    loras: Loras = None,
    browser: Browser = False,
    device: Device = None,
    dtype: Dtype = "auto",
    json: Json = False,
) -> None:
    """Open the studio: every task of the model in a browser, without any external requests.

    Only this machine can reach it unless --host allows others. Stop with Ctrl+C.
    """
    from versatile_diffusion.cli.io.model import load

    try:
        from versatile_diffusion.ui.page.gate import allowed_names, is_loopback
        from versatile_diffusion.ui.queue.adapters import adapters_in
        from versatile_diffusion.ui.serve import Address, StudioModels, logins, running, written_logins
    except ImportError as error:
        raise ValueError(f"the studio needs the extra 'ui': pip install 'versatile-diffusion[ui]' ({error})") from error

    everybody = [*(auth or ()), *written_logins(auth_file)]
    logins(everybody)
    names = allow_host or ()
    beyond = not is_loopback(allowed_names(host, names).listening)
    if auth:
        note("other users of this machine can read --auth in the process list; use --auth-file or VERSATILE_AUTH")
    if not no_save:
        check_folder(out)
    adapters_in(loras)
    choice = StudioModels((model, *(also or ())), loras, lambda name: load(name, device, dtype))
    if (also or loras) and (beyond or everybody or names):
        note("models and adapters can be changed from this machine alone; --also and --loras have no effect")
    pipe = load(model, device, dtype)
    address, folder = Address(host, port, names), None if no_save else out
    options: dict[str, Any] = {"auth": everybody, "open_browser": browser, "out": folder, "choice": choice}
    with running(pipe, model, address=address, **options) as studio:
        show_json({"url": studio.url}) if json else show(studio.url)
        if beyond and not everybody:
            note("anyone who can reach this address can use it; require logins with --auth-file FILE")
        note("Press Ctrl+C to stop" if no_save else f"Results are saved in {out}; press Ctrl+C to stop")
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # a service manager's SIGTERM cleans up, too
        with suppress(KeyboardInterrupt):
            threading.Event().wait()
