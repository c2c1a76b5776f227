"""Several processes on this machine: what `torchrun` does for one machine, with plain exit codes and messages."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

from versatile_diffusion.data.workers import end_with

GRACE = 20.0
"""Seconds that the others get to end by themselves after one failed."""
LAUNCHER = "VERSATILE_LAUNCHER"
"""Environment variable with the number of the process that `launch` runs in."""


def launch(command: Sequence[str], count: int) -> int:
    """Runs `command` in `count` processes that can join each other, and waits for them.

    SIGTERM and SIGINT are passed on. When one process fails the others get a while to say so, and are then ended.

    Returns:
        0, or the exit code of the first that failed (128 + its number where a signal ended it).

    Raises:
        ValueError: this process is one of several already.
    """
    if "WORLD_SIZE" in os.environ:
        raise ValueError("WORLD_SIZE is set: this is one of several processes already; leave out --nproc")
    environment = {
        **os.environ,
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
        LAUNCHER: str(os.getpid()),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count))),
    }
    processes = [
        subprocess.Popen(command, env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(count)
    ]

    def pass_on(number: int, _: object) -> None:
        for process in processes:
            if process.poll() is None:
                with suppress(ValueError):  # Windows sends no SIGINT; its Ctrl-C reaches every process of the console
                    process.send_signal(number)

    before = {s: signal.signal(s, pass_on) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        return _wait(processes)
    finally:
        for which, handler in before.items():
            signal.signal(which, handler)
        for process in processes:
            process.kill()


def end_with_launcher() -> None:
    """Ends this process at once when what launched it (`launch` or torchrun) ends, however that happens: a process that
    nobody watches would train on unseen. The next start goes on from the last checkpoint, as after any kill."""
    if LAUNCHER in os.environ:
        end_with(int(os.environ[LAUNCHER]))
    elif "TORCHELASTIC_RUN_ID" in os.environ:
        end_with()  # a scheduler's process is left alone: what started it may well have ended


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    failed, deadline = 0, float("inf")
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        if not failed and (bad := [(p.returncode, rank) for rank, p in enumerate(processes) if p.returncode]):
            code, rank = min(bad)  # killed ones first: those that lost one fail too
            print(f"process {rank} of {len(processes)} ended with code {code}", file=sys.stderr)
            failed, deadline = code, time.monotonic() + GRACE
        time.sleep(0.1)
    codes = [process.returncode or 0 for process in processes]
    failed = failed or min(codes) or max(codes)
    return 128 - failed if failed < 0 else failed


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
