"""WebDataset shards of small pictures, each of its own colour, with captions."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from PIL import Image

COLOURS = ("red", "green", "blue", "orange", "purple", "black")


def write_shards(folder: Path, shards: int, each: int, *, bad: int | None = None) -> Path:
    """Tars of pictures, one in four of them wide; the one with the number `bad` is broken."""
    folder.mkdir(parents=True)
    for shard in range(shards):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for place in range(each):
                number = shard * each + place
                stream = io.BytesIO()
                size = (32, 8) if number % 4 == 0 else (20, 16)
                Image.new("RGB", size, (3 * number % 256, 90, 200)).save(stream, "PNG")
                data = b"broken" if number == bad else stream.getvalue()
                caption = f"a {COLOURS[number % 6]} house {number}".encode()
                for suffix, body in (("png", data), ("txt", caption)):
                    info = tarfile.TarInfo(f"{shard:05d}{place:05d}.{suffix}")
                    info.size = len(body)
                    tar.addfile(info, io.BytesIO(body))
    return folder
