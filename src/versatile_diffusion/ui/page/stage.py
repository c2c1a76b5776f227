"""Status display above the results: progress, previews and errors, as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.ui.page.uploads import data_url
from versatile_diffusion.ui.queue.jobs import StudioJob

if TYPE_CHECKING:
    from versatile_diffusion.pipeline.ranking import Ranked

PREVIEW_SIDE = 128


def candidates_table(rows: Sequence[Ranked]) -> str:
    """Return the texts that were not chosen, with their scores, folded; empty if there are none."""
    if len(rows) < 2:
        return ""
    lines = "".join(f"<tr><td>{row.score:.3f}</td><td>{escape(str(row.value))}</td></tr>" for row in rows)
    head = "<tr><th>Similarity</th><th>Text</th></tr>"
    said = f"All {len(rows)} candidates, best first"
    return f'<details class="cells considered"><summary>{said}</summary><table>{head}{lines}</table></details>'


def idle(text: str) -> str:
    """Return the status before any request."""
    return f'<div class="stage idle">{escape(text)}</div>'


def trouble(sentence: str) -> str:
    """Return an error message."""
    return f'<div class="stage trouble" role="alert">{escape(sentence)}</div>'


def is_trouble(shown: str | None) -> bool:
    """Return whether an error message is shown."""
    return 'class="stage trouble"' in (shown or "")


def show_sending() -> str:
    """Return the status of a request just sent."""
    return f'<div class="stage busy" role="status"><p>Sending</p>{_bar(0)}</div>'


def remark(sentence: str) -> str:
    """Return a notice."""
    return f'<div class="stage remark" role="status">{escape(sentence)}</div>'


def of(job: StudioJob) -> str:
    """Return the status of a job."""
    return STATES[job.state](job)


def duration(seconds: float) -> str:
    """Format a duration."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def _show_waiting(job: StudioJob) -> str:
    before = "next in the queue" if job.ahead <= 1 else f"{job.ahead} requests before yours"
    wait = f", about {duration(job.wait)}" if job.wait >= 1 else ""
    return f'<div class="stage busy" role="status"><p>Waiting: {before}{wait}</p>{_bar(0)}</div>'


def _show_running(job: StudioJob) -> str:
    runs = f"run {len(job.outputs) + 1} of {len(job.asks)}, " if len(job.asks) > 1 else ""
    step = f"step {job.step} of {job.steps}" if job.steps else "preparing"
    left = "" if job.left is None else f", {duration(max(job.left, 0.1))} left"
    label = job.ask.label if len(job.outputs) < len(job.asks) else ""
    title = f"<p>{escape(f'{runs}{step}{left}'.capitalize())}{f' ({escape(label)})' if label else ''}</p>"
    return f'<div class="stage busy" role="status">{title}{_bar(job.share)}{_previews(job.previews)}</div>'


def _show_done(job: StudioJob) -> str:
    count = sum(len(output) for output in job.outputs)
    seeds = job.outputs[0].settings["seeds"]
    modality = MODALITIES[job.outputs[0].data]
    text = f"{count} {modality.plural if count > 1 else modality.noun} in {duration(job.seconds)}, seed {seeds[0]}"
    return f'<div class="stage done" role="status">{escape(text)}</div>'


def _show_failed(job: StudioJob) -> str:
    return trouble(job.message)


def _show_stopped(job: StudioJob) -> str:
    return '<div class="stage idle" role="status">Stopped.</div>'


STATES = {
    "waiting": _show_waiting,
    "running": _show_running,
    "done": _show_done,
    "failed": _show_failed,
    "stopped": _show_stopped,
}


def _bar(share: float) -> str:
    percent = round(100 * share)
    return (
        f'<div class="bar" role="progressbar" aria-valuenow="{percent}" aria-valuemin="0" aria-valuemax="100">'
        f'<i style="width:{percent}%"></i></div>'
    )


def _previews(values: Iterable[Any]) -> str:
    shown = "".join(_preview(value) for value in values)
    return f'<div class="previews">{shown}</div>' if shown else ""


def _preview(value: Any) -> str:
    """Return the preview of an image or a text."""
    if isinstance(value, str):
        return f"<q>{escape(value)}</q>"
    return f'<img src="{data_url(value, PREVIEW_SIDE)}" alt="preview">'
