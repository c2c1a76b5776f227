"""Child processes that end with their parent."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from multiprocessing import parent_process
from multiprocessing.process import BaseProcess

PR_SET_PDEATHSIG = 1
ENDED = 128 + signal.SIGTERM
"""Exit code of a process whose parent has ended."""


def end_with(parent: int | None = None) -> None:
    """End this process when its parent ends for whatever reason: by the kernel on Linux, elsewhere by a thread that
    polls. Pass `parent`, a process ID, if the parent may have ended already."""
    if os.name != "posix":
        return
    parent = os.getppid() if parent is None else parent
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_follow, args=(parent,), daemon=True).start()
    if os.getppid() != parent:
        os._exit(ENDED)
    starter = parent_process()
    if starter is not None and starter.pid != parent:  # a fork server in between may live on
        threading.Thread(target=_outlast, args=(starter,), daemon=True).start()


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(ENDED)


def _outlast(process: BaseProcess) -> None:
    process.join()
    os._exit(ENDED)
