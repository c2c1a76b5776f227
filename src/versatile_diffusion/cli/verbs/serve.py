"""`versatile serve`: the HTTP service."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from versatile_diffusion.cli.io.console import note, show, show_json
from versatile_diffusion.cli.options import Device, Json, Model
from versatile_diffusion.printable import shown
from versatile_diffusion.shipped import HUB_ID

Host = Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 accepts other machines.")]
Port = Annotated[int, typer.Option(min=1, max=65535, help="Port.")]
Keys = Annotated[
    list[str] | None,
    typer.Option(metavar="KEY", help="API key to require; may repeat. Other users of this machine can read it."),
]
KeyFile = Annotated[
    Path | None, typer.Option(metavar="FILE", help="File of API keys, one per line; or set VERSATILE_API_KEY.")
]
Hosts = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="Host name to accept besides the address, such as a proxy's; may repeat."),
]
Places = Annotated[int, typer.Option(min=1, help="Items generated at the same time.")]
Queue = Annotated[int, typer.Option(min=1, help="Requests that may wait; more get status 429.")]
PerClient = Annotated[int, typer.Option(min=1, help="Requests of one client that may wait or run.")]
Items = Annotated[int, typer.Option(min=1, help="Items of one request.")]
Steps = Annotated[int, typer.Option(min=1, max=1000, help="Sampling steps of one request.")]
Side = Annotated[int, typer.Option(min=1, help="Height and width of an image in pixels.")]
Body = Annotated[int, typer.Option(min=1, help="Size of a request in megabytes.")]
Timeout = Annotated[float, typer.Option(min=0.1, help="Seconds until a request must be done.")]
Grace = Annotated[float, typer.Option(min=0.1, help="Seconds that running work has when it is stopped.")]
Studio = Annotated[bool, typer.Option("--ui", help="Also open the studio, on the first free port from 7860.")]
Ray = Annotated[
    str | None,
    typer.Option(metavar="ADDRESS", help="Serve replicas on a Ray cluster; local starts one on this machine."),
]
Replicas = Annotated[int, typer.Option(min=1, help="Replicas, with --ray.")]
MostReplicas = Annotated[
    int | None, typer.Option(min=1, help="Maximum number of replicas while requests wait, with --ray.")
]
Lora = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=FILE", help="Adapter to serve as a model of that name, with --ray; may repeat."),
]
Name = Annotated[str | None, typer.Option(metavar="ID", help="Id of the model for clients; default: as --model.")]
LogPrompts = Annotated[bool, typer.Option("--log-prompts", help="Write prompts to the access log.")]


def serve(
    model: Model = "emoji",
    name: Name = None,
    host: Host = "127.0.0.1",
    port: Port = 8000,
    api_key: Keys = None,
    api_key_file: KeyFile = None,
    allow_host: Hosts = None,
    places: Places = 8,
    queue: Queue = 64,
    per_client: PerClient = 16,
    max_items: Items = 16,
    max_steps: Steps = 200,
    max_side: Side = 1024,
    max_body: Body = 32,
    timeout: Timeout = 300.0,
    grace: Grace = 30.0,
    log_prompts: LogPrompts = False,
    ui: Studio = False,
    ray: Ray = None,
    replicas: Replicas = 1,
    max_replicas: MostReplicas = None,
    lora: Lora = None,
    device: Device = None,
    json: Json = False,
) -> None:
    """Serve a model over HTTP, for OpenAI clients and whole requests of this library.

    Only this machine can reach it, unless --host says otherwise. SIGTERM or Ctrl+C drains it: requests that run are
    answered, and new ones get status 503. /docs lists the endpoints.
    """
    try:
        from versatile_diffusion.serving.limits import Limits
        from versatile_diffusion.serving.server import KEYS, hosts, keys_in
    except ImportError as error:
        raise _without("the service", "serve", error) from error

    keys = keys_in(api_key or (), os.environ.get(KEYS, ""), api_key_file)
    if api_key:
        note(f"other users of this machine can read --api-key in the list of processes; use --api-key-file or {KEYS}")
    sizes = {"places": places, "waiting": queue, "each": per_client, "items": max_items, "steps": max_steps}
    limits = Limits(**sizes, side=max_side, megabytes=max_body, seconds=timeout, grace=grace)
    options = {"api_keys": keys, "allow_hosts": hosts(host, allow_host or ()), "log_prompts": log_prompts}
    plan: dict[str, Any] = {"model": model, "limits": limits, "app": options, "name": name or model}
    if ray is None:
        if lora:
            raise ValueError("--lora needs --ray, such as --ray local")
        return _here(plan, (host, port), ui, device, json)
    if ui:
        raise ValueError("--ui and --ray: the studio runs on the engine of one process; leave one of them out")
    plan |= {"loras": loras_in(lora or ()), "replicas": replicas, "most": max_replicas or replicas}
    return _on_ray(plan, ray, (host, port), device, json)


def _here(plan: dict[str, Any], place: tuple[str, int], ui: bool, device: str | None, json: bool) -> None:
    """The service in this process, until SIGTERM or Ctrl+C. Args: place: host and port."""
    from versatile_diffusion.cli.io.model import load
    from versatile_diffusion.serving.api.app import app
    from versatile_diffusion.serving.server import is_loopback
    from versatile_diffusion.serving.server import serve as serve_app

    (host, port), model = place, plan["model"]
    pipe = load(model, device)
    pipe.set_progress_bar_config(disable=True)
    api = app(pipe, plan["limits"], name=plan["name"], **plan["app"])
    closed = is_loopback(host) or bool(plan["app"]["api_keys"])
    with _studio(api.state.service.engine, model, host, is_loopback(host)) if ui else nullcontext() as studio:
        _announce({"url": url_of(host, port)} | ({"studio": studio.url} if studio else {}), json, closed)
        serve_app(api, host, port)


def url_of(host: str, port: int) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _announce(urls: dict[str, str], json: bool, closed: bool) -> None:
    """Prints where it listens. Args: closed: whether others need a key, or cannot reach it."""
    show_json(urls) if json else show("\n".join(urls.values()))
    if not closed:
        note("everybody who reaches this address can use it; --api-key-file FILE asks for a key")
    note(f"{urls['url']}/docs lists the endpoints; Ctrl+C ends it")


def loras_in(given: Sequence[str]) -> dict[str, str]:
    """Adapters by name.

    Raises:
        ValueError: one is not NAME=FILE, there is no such file, or two have the same name.
    """
    found: dict[str, str] = {}
    for text in given:
        name, _, place = text.partition("=")
        if not name or not place:
            raise ValueError(f"--lora is {shown(text)}; it must be NAME=FILE")
        if name in found:
            raise ValueError(f"--lora {name} is given twice; every model needs a name of its own")
        if not Path(place).exists() and not HUB_ID.fullmatch(place):
            raise ValueError(f"--lora {name}: {place} does not exist")
        found[name] = place
    return found


def _without(what: str, extra: str, error: ImportError) -> ValueError:
    """What to say where an extra is not installed."""
    return ValueError(f"{what} needs the extra '{extra}': pip install 'versatile-diffusion[{extra}]' ({error})")


def _on_ray(plan: dict[str, Any], address: str, place: tuple[str, int], device: str | None, json: bool) -> None:
    """Replicas on a cluster, until SIGTERM or Ctrl+C. Args: place: host and port."""
    from versatile_diffusion.serving.server import is_loopback

    try:
        from versatile_diffusion.serving.cluster import ClusterPlan, start, stop
    except ImportError as error:
        raise _without("--ray", "cluster", error) from error
    from versatile_diffusion.cli.io.model import find_device

    gpus = 0 if find_device(device) == "cpu" else 1
    owner = start(ClusterPlan(**plan, gpus=gpus), address, *place)
    closed = is_loopback(place[0]) or bool(plan["app"]["api_keys"])
    _announce({"url": url_of(*place)}, json, closed)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # in place of that of Ray
    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        stop(owner)


def _studio(engine: Any, model: str, host: str, loopback: bool) -> AbstractContextManager[Any]:
    """The studio on the same engine. It knows no API keys, so others reach it only where VERSATILE_AUTH has logins."""
    try:
        from versatile_diffusion.ui.serve import AUTH, Address, running, written_logins
    except ImportError as error:
        raise _without("--ui", "ui", error) from error
    people = written_logins(None)
    if not loopback and not people:
        note(f"the studio stays on this machine; logins in {AUTH} let others in")
        host = "127.0.0.1"
    return running(engine, model, address=Address(host), auth=people)
