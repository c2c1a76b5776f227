"""Processes that tests start."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

OPERATIONS = (
    "open",
    "os.rename",
    "os.remove",
    "os.mkdir",
    "os.rmdir",
    "os.symlink",
    "os.truncate",
    "shutil.copyfile",
)
"""Audit events of operations on files."""


@contextmanager
def process(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A process that ends with the context: `with Popen(...)` would wait for it for ever once an assertion fails."""
    started = subprocess.Popen(command, text=True, **options)
    try:
        yield started
    finally:
        started.kill()
        started.communicate()


def forked(work: Callable[[], Any], kill_after: float | None = 600) -> int:
    """The exit code of `work` in a process of its own, which is killed after that many seconds."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(kill_after)
    if process.is_alive():
        process.kill()
    process.join(600)
    assert process.exitcode is not None
    return process.exitcode


def killed_at(operation: int, out: Path, work: Callable[[], Any], but: str | None = None) -> None:
    """`work`, killed before its n-th operation on a file below `out` whose path does not contain `but`."""
    left = [operation]

    def count(event: str, words: tuple[Any, ...]) -> None:
        names = [str(word) for word in words if isinstance(word, str | os.PathLike)]
        if event in OPERATIONS and any(str(out) in name and (but is None or but not in name) for name in names):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    work()
