"""Early stopping of a run. Each run has its own flag, even if several threads share a pipeline or a run starts
another."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any


@dataclass
class Flag:
    """Whether a run should stop after its current step."""

    pipe: Any
    raised: bool = False


_FLAGS: ContextVar[tuple[Flag, ...]] = ContextVar("flags", default=())
"""Active runs of this thread, innermost last."""


@contextmanager
def under_way(pipe: Any) -> Iterator[Flag]:
    """Register a run of a pipeline; `present_flag` returns its flag meanwhile."""
    flag = Flag(pipe)
    before = _FLAGS.set((*_FLAGS.get(), flag))
    try:
        yield flag
    finally:
        _FLAGS.reset(before)


def present_flag(pipe: Any) -> Flag | None:
    """Return the flag of the innermost run of a pipeline in this thread; None if there is none."""
    return next((flag for flag in reversed(_FLAGS.get()) if flag.pipe is pipe), None)
