"""Processes that tests start."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any


@contextmanager
def process(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process that ends with the context: `with Popen(...)` would wait for it for ever once an assertion fails."""
    started = subprocess.Popen(command, text=True, **options)
    try:
        yield started
    finally:
        started.kill()
        started.communicate()
