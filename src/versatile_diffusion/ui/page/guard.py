"""Protection of the page: no input makes the server fetch a URL or open a path, and only the gradio routes that the
page needs are served."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gradio as gr
from starlette.requests import HTTPConnection
from starlette.types import Scope

from versatile_diffusion.ui.page.gate import MEGABYTE, Door
from versatile_diffusion.ui.queue.jobs import StudioLimits
from versatile_diffusion.ui.queue.throttle import Rate, Throttle

LOGINS = Rate(burst=10, per_second=1 / 30)  # failed logins
REQUESTS = Rate(burst=300, per_second=10)
HOUR = 3600
ADDRESSES = ("http://", "https://", "//")


def fetched_addresses(value: Any) -> bool:
    """Return whether a payload names a file by URL, which gradio would download."""
    if isinstance(value, dict):
        path = value.get("path")
        if isinstance(path, str) and path.strip().lower().startswith(ADDRESSES):
            return True
        return any(fetched_addresses(inner) for inner in value.values())
    if isinstance(value, list | tuple):
        return any(fetched_addresses(inner) for inner in value)
    return False


class Guarded(gr.Blocks):
    """Blocks that refuse files by URL and overlong texts; gradio itself checks that paths are inside the upload folder
    and numbers are in range."""

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *arguments: Any, **options: Any) -> Any:
        if fetched_addresses(inputs):
            raise gr.Error("Only uploaded files are allowed, not URLs.", print_exception=False)
        for component, value in zip(block_fn.inputs, inputs, strict=False):
            most = getattr(component, "max_length", None)  # gradio checks it only in the browser
            if most is not None and isinstance(value, str) and len(value) > most:
                raise gr.Error(f"{component.label} is too long: {most} characters are allowed.", print_exception=False)
        return await super().preprocess_data(block_fn, inputs, *arguments, **options)


def doors(limits: StudioLimits) -> tuple[Door, ...]:
    """Return the requests that the page needs. gradio has about sixty other routes: a second queue endpoint, deep links
    (each writes a file), component functions, recordings, a proxy."""
    requests = Throttle(REQUESTS)
    results = Throttle(REQUESTS)  # separate, so that an admitted request can always fetch its result
    stored = limits.uploaded * MEGABYTE
    uploads = Throttle(Rate(stored, stored / HOUR))
    largest = limits.megabytes * MEGABYTE + MEGABYTE // 2  # including multipart overhead
    return (
        Door("GET HEAD", "/", public=True),
        Door("GET HEAD", "/(assets|static)/.+|/theme.css|/favicon.ico|/robots.txt", public=True),
        Door("POST", "/login", public=True, throttle=Throttle(LOGINS), attempt=True, largest=MEGABYTE),
        Door("GET", "/logout", public=True),
        Door("GET", "/gradio_api/startup-events", public=True, throttle=requests),  # requested by gradio itself
        Door("GET", "/config|/gradio_api/app_id", throttle=requests),
        Door("GET HEAD", "/gradio_api/file=.+"),
        Door("POST", "/gradio_api/upload", throttle=uploads, stores=True, largest=largest),
        Door("GET", "/gradio_api/(upload_progress|heartbeat/[^/]+)", throttle=requests),
        Door("GET", "/gradio_api/queue/data", throttle=results),
        Door("POST", "/gradio_api/(queue/join|run/predict)", throttle=requests),
    )


def has_logged_in(scope: Scope) -> bool:
    """Return whether a request belongs to a session logged in by gradio."""
    app, cookies = scope["app"], HTTPConnection(scope).cookies
    names = (f"access-token-{app.cookie_id}", f"access-token-unsecure-{app.cookie_id}")
    return any(cookies.get(name) in app.tokens for name in names)


def slim_sessions(page: gr.Blocks) -> None:
    """Stop gradio from storing the page's full description per session (1.4 MB and 0.2 s), which only deep links
    need."""
    without: Any = SimpleNamespace(default_config=page.default_config, blocks={})
    page.app.state_holder.blocks = without


def forget_session(page: gr.Blocks, session: str) -> None:
    """Drop gradio's state of a session, unless it has running events."""
    holder, queue = page.app.state_holder, page._queue
    if any(event.session_hash == session for event in [*queue.event_ids_to_events.values()]):
        return
    holder.session_data.pop(session, None)
    holder.time_last_used.pop(session, None)
    queue.pending_event_ids_session.pop(session, None)
    queue.pending_messages_per_session.pop(session, None)


def forget_sessions(page: gr.Blocks, hours: float) -> None:
    """Drop sessions unused for the given hours, and the queue state of sessions that are gone."""
    holder, oldest = page.app.state_holder, datetime.now() - timedelta(hours=hours)
    for session, used in [*holder.time_last_used.items()]:
        if used < oldest:
            forget_session(page, session)
    for session in [*page._queue.pending_event_ids_session]:
        if session not in holder:
            forget_session(page, session)


def forget_files(page: gr.Blocks) -> None:
    """Forget files that are gone. gradio's own cleanup (`delete_cache`) stops for good if a file arrives while it
    runs."""
    for files in page.temp_file_sets:
        files -= {file for file in [*files] if not Path(file).exists()}
