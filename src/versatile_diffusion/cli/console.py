"""What people see: progress and remarks on stderr, results on stdout."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from rich.console import Console

stderr = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)
stdout = Console(highlight=False, emoji=False, soft_wrap=True)
T = TypeVar("T")


def note(message: str) -> None:
    """A remark for people, on stderr."""
    stderr.print(message, markup=False)


def note_made(count: int, seed: int, seconds: float | None = None) -> None:
    """A remark on how many were made, and how to make them again."""
    took = "" if seconds is None else f" in {seconds:.1f} s"
    note(f"{count} made{took}; --seed {seed} makes {'it' if count == 1 else 'them'} again")


def show(message: str) -> None:
    """A result, on stdout as it is."""
    print(message, flush=True)


def show_json(value: Any) -> None:
    """A result for programs, on stdout."""
    print(json.dumps(value, ensure_ascii=False, indent=2))


def show_json_line(value: Any) -> None:
    """One of several results for programs, on stdout at once."""
    print(json.dumps(value, ensure_ascii=False), flush=True)


@contextmanager
def working(message: str) -> Iterator[None]:
    """A spinner on stderr while something runs of which no step is known; nothing where stderr is not a terminal."""
    if not stderr.is_terminal:
        yield
        return
    with stderr.status(message):
        yield


def tracked(items: Sequence[T], message: str) -> Iterator[T]:
    """The items one by one, with a progress bar on stderr; nothing is shown where stderr is not a terminal."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn())
    bar = Progress(
        *columns,
        console=stderr,
        transient=True,
        disable=not stderr.is_terminal,
        redirect_stdout=stdout.is_terminal,  # else results would go where the bar goes
    )
    with bar:
        yield from bar.track(items, description=message)
