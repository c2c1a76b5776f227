"""Start several processes on this machine, like `torchrun` for one machine, with plain exit codes and messages."""

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
"""Seconds that the other processes have to end after one failed."""
LAUNCHER = "VERSATILE_LAUNCHER"
"""Environment variable with the process ID of the launcher."""


def launch(command: Sequence[str], count: int) -> int:
    """Run `command` in `count` processes that can form a process group, and wait for them.

    SIGTERM and SIGINT are forwarded. When one process fails, the others have some time to report it, then they are
    killed.

    Returns:
        0, or the exit code of the first process that failed (128 + n if signal n ended it).

    Raises:
        ValueError: this process is already one of several.
    """
    if "WORLD_SIZE" in os.environ:
        raise ValueError("WORLD_SIZE is set: this is already one of several processes; omit --nproc")
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
                with suppress(ValueError):  # Windows cannot send SIGINT, but Ctrl-C reaches all processes
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
    """End this process when its launcher (`launch` or torchrun) ends for whatever reason, so that no unsupervised
    process keeps training. The next start resumes from the last checkpoint, as after any kill."""
    if LAUNCHER in os.environ:
        end_with(int(os.environ[LAUNCHER]))
    elif "TORCHELASTIC_RUN_ID" in os.environ:
        end_with()  # not for processes of a scheduler, whose parent may end early


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    failed, deadline = 0, float("inf")
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        if not failed and (bad := [(p.returncode, rank) for rank, p in enumerate(processes) if p.returncode]):
            code, rank = min(bad)  # killed processes first: the others fail as a consequence
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
