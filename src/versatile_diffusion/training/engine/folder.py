"""The folder of a run, locked for one run at a time, from before the first file is written until after the last one."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TextIO

from tqdm import tqdm

from versatile_diffusion.files import writing
from versatile_diffusion.training.engine.checkpoints import still_there
from versatile_diffusion.training.engine.distributed import World, losses_told

LOCK = ".lock"


@contextmanager
def owned(out: Path, world: World) -> Iterator[None]:
    """Context of a run: the folder exists and is locked, and errors of the disk and of other processes say what to do.

    Raises:
        ValueError: another run uses the folder; nothing was written.
        OSError: the disk is full; ConnectionError: another process of this run died. Saved files are kept.
    """
    with (
        losses_told(world, out),
        writing(out, lambda: still_there(out)),
        held(out) if world.first else nullcontext(),
    ):
        if world.first:
            _sweep(out)
        yield


@contextmanager
def held(out: Path) -> Iterator[None]:
    """Create the folder if needed (and remove it again if the run fails at once), and lock it. The lock ends with the
    process, for whatever reason.

    Raises:
        ValueError: another run is training there.
    """
    fresh = not out.exists()
    with _lock(out) as lock:
        lock.write(f"process {os.getpid()} on {socket.gethostname()}")
        lock.flush()
        try:
            yield
        except BaseException:
            with suppress(OSError):
                if fresh and os.listdir(out) == [LOCK]:
                    (out / LOCK).unlink()
                    out.rmdir()
            raise
        finally:
            lock.truncate(0)


def _lock(out: Path) -> TextIO:
    """Open, empty and lock the lock file of a folder."""
    for _ in range(5):
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / LOCK).open("a+", errors="replace")
        lock.seek(0)
        holder = " ".join(lock.read(200).split())
        _hold(lock, out, holder)
        if os.fstat(lock.fileno()).st_nlink:
            break  # otherwise its previous owner has just removed it with the folder
    if holder and not holder.endswith(f" on {socket.gethostname()}"):
        note(f"{out} is marked as used by {holder}, which this lock may not cover; make sure that it has stopped")
    lock.truncate(0)
    return lock


def _hold(lock: TextIO, out: Path, holder: str) -> None:
    try:
        import fcntl

        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        told = f" ({holder})" if holder else ""
        raise ValueError(f"another process is training in {out}{told}; stop it first, or use another folder") from None
    except (ImportError, OSError) as error:  # not supported by this system or file system
        note(f"{out} cannot be locked ({error}); make sure that nothing else trains there")


def _sweep(out: Path) -> None:
    """Remove incomplete files of a killed run."""
    for left in [*out.glob("*.tmp"), *out.glob("*/*.tmp")]:
        if left.is_file():
            with suppress(OSError):
                left.unlink()


def note(message: str) -> None:
    """Print a remark above the progress bar."""
    tqdm.write(f"note: {message}", file=sys.stderr)
