"""The folder of a run: one run at a time has it, from before the first file is written until after the last one."""

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
    """What all work of a run happens in: the folder is there and held, and errors of the disk and of the other
    processes say what to do.

    Raises:
        ValueError: another run has the folder; nothing was written.
        OSError: the disk is full; ConnectionError: another process of this run died. What was saved stays.
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
    """Makes the folder where there is none (and takes it away again if nothing came of it), and keeps a second run out;
    the hold ends with the process, however that ends.

    Raises:
        ValueError: a run is training there.
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
    """The lock file of a folder, open, empty and held."""
    for _ in range(5):
        out.mkdir(parents=True, exist_ok=True)
        lock = (out / LOCK).open("a+", errors="replace")
        lock.seek(0)
        holder = " ".join(lock.read(200).split())
        _hold(lock, out, holder)
        if os.fstat(lock.fileno()).st_nlink:
            break  # else whoever held it took it away with the folder in between
    if holder and not holder.endswith(f" on {socket.gethostname()}"):
        _warn(f"{out} was left without a word by {holder}, which this lock may not reach: see that it trains no more")
    lock.truncate(0)
    return lock


def _hold(lock: TextIO, out: Path, holder: str) -> None:
    try:
        import fcntl

        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        told = f" ({holder})" if holder else ""
        raise ValueError(f"another process is training in {out}{told}; stop it first, or give another folder") from None
    except (ImportError, OSError) as error:  # of this system, or of this disk
        _warn(f"{out} cannot be locked ({error}): see that nothing else trains there")


def _sweep(out: Path) -> None:
    """Removes files that a killed run had begun to write."""
    for left in [*out.glob("*.tmp"), *out.glob("*/*.tmp")]:
        if left.is_file():
            with suppress(OSError):
                left.unlink()


def _warn(message: str) -> None:
    tqdm.write(f"note: {message}", file=sys.stderr)
