"""Files that are written whole or not at all, and disks that take no more: told in one line, with what is safe."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Writes a file with `write`, as a whole or not at all; what stood there before stays until then."""
    temporary = path.with_name(f"{path.name}.tmp")
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def writing(folder: Path, safe: Callable[[], str]) -> Iterator[None]:
    """Turns what a full disk makes of writing below `folder` into one error that says what to do; `safe` tells what is
    there already.

    Raises:
        OSError: the disk is full, or takes no such file.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        if not _full(error):
            raise
        raise OSError(
            f"{folder} could not be written to ({error}); {safe()}; make room and start the same command again"
        ) from error


def _full(error: OSError | SafetensorError) -> bool:
    if isinstance(error, OSError):
        return error.errno in FULL
    found = re.search(r"\(os error (\d+)\)", str(error))  # safetensors keeps the number in its words
    return found is not None and int(found[1]) in FULL
