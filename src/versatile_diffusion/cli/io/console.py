"""Terminal output: progress and messages on stderr, results on stdout."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from rich.console import Console
from rich.text import Text

from versatile_diffusion.printable import printable, printable_json, printable_lines

T = TypeVar("T")


class Screen(Console):
    """Console that prints text literally, without interpreting markup."""

    def __init__(self, **options: Any):
        super().__init__(highlight=False, emoji=False, markup=False, soft_wrap=True, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable_lines(text), **options)


stderr, stdout = Screen(stderr=True), Screen()


def note(message: str) -> None:
    """Print a one-line message on stderr."""
    stderr.print(printable(message))


def note_lines(message: str) -> None:
    """Print a multi-line message on stderr."""
    stderr.print(message)


def note_made(count: int, seed: int, seconds: float | None = None) -> None:
    """Report how many outputs were generated, and how to reproduce them."""
    took = "" if seconds is None else f" in {seconds:.1f} s"
    note(f"{count} generated{took}; reproduce with --seed {seed}")


def show(message: str) -> None:
    """Print a result line on stdout, escaping control characters; `show_json` prints text verbatim."""
    print(printable(message), flush=True)


def show_json(value: Any) -> None:
    """Print a JSON result on stdout."""
    print(printable_json(json.dumps(value, ensure_ascii=False, indent=2)))


def show_json_line(value: Any) -> None:
    """Print one JSON result of several on stdout, flushed at once."""
    print(printable_json(json.dumps(value, ensure_ascii=False)), flush=True)


@contextmanager
def working(message: str) -> Iterator[None]:
    """Show a spinner on stderr while work of unknown length runs; nothing if stderr is not a terminal."""
    if not stderr.is_terminal:
        yield
        return
    with stderr.status(Text(printable(message))):
        yield


def with_progress(items: Sequence[T], message: str) -> Iterator[T]:
    """Iterate over the items with a progress bar on stderr; no bar if stderr is not a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(24),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    bar = Progress(
        *columns,
        console=stderr,
        transient=True,
        disable=not stderr.is_terminal,
        redirect_stdout=stdout.is_terminal,  # otherwise results would share the bar's stream
    )
    with bar:
        yield from bar.track(items, description=printable(message))
