"""What people see: progress and remarks on stderr, results on stdout, errors in one line."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from rich.console import Console

stderr = Console(stderr=True, highlight=False, soft_wrap=True)
stdout = Console(highlight=False, soft_wrap=True)
LONGEST = 300
T = TypeVar("T")


def one_line(error: BaseException) -> str:
    """An error's message in one line, its middle left out where it quotes much of the input."""
    usage = getattr(error, "format_message", None)  # errors of the command line parser have it
    message = " ".join((usage() if usage else str(error)).split()) or type(error).__name__
    if len(message) > LONGEST:
        message = f"{message[: LONGEST // 2]} ... {message[-LONGEST // 2 :]}"
    return f"{message.rstrip('.')}; `versatile --help` says what is allowed" if usage else message


def quiet_libraries() -> None:
    """Keep the advice that libraries give to programmers away from people who only run the command."""
    for variable in ("TRANSFORMERS_VERBOSITY", "DIFFUSERS_VERBOSITY"):
        os.environ.setdefault(variable, "error")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.simplefilter("ignore")


def note(message: str) -> None:
    """A remark for people, on stderr."""
    stderr.print(message, markup=False)


def show(message: str) -> None:
    """A result, on stdout."""
    stdout.print(message, markup=False)


def show_json(value: Any) -> None:
    """A result for programs, on stdout."""
    print(json.dumps(value, ensure_ascii=False, indent=2))


@contextmanager
def working(message: str) -> Iterator[None]:
    """A spinner on stderr while something runs of which no step is known; nothing where stderr is not a terminal."""
    if not stderr.is_terminal:
        yield
        return
    with stderr.status(message):
        yield


def tracked(items: Sequence[T], message: str) -> Iterable[T]:
    """The items one by one, with a progress bar on stderr; nothing is shown where stderr is not a terminal."""
    from rich.progress import track

    return track(items, message, console=stderr, transient=True, disable=not stderr.is_terminal)
