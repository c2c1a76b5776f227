"""A page that shows each control and application once, from real runs of a model.

    python scripts/make_gallery.py --data data/emoji

writes `docs/gallery.md` and its pictures. The code on the page is that of the functions in `gallery_entries.py`, which
have just run.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from gallery_entries import ENTRIES
from PIL import Image

from versatile_diffusion import VersatileDiffusionPipeline
from versatile_diffusion.cli.demo import sample_pictures
from versatile_diffusion.data.emoji import EmojiSet

MOST_BYTES = 1_000_000
PAGE, PICTURES = "gallery.md", Path("images", "gallery")
HEAD = """# Gallery

Made by `{command}` with the model "{model}". Each picture and text comes from the code above it, with the seed
that stands there: nothing is chosen among several. `pipe` is the model, `picture` has its sample pictures by
name{steps}. The model was trained on none of these pictures. [controls.md](controls.md) explains the controls,
[applications.md](applications.md) the applications.
"""
TAIL = """## Measured

How much [the levels of mixing](applications.md#levels-of-mixing) keep of both contexts,
[the levels of disentanglement](applications.md#what-a-level-keeps) of concept and style, and how well
[a picture and its caption](applications.md#how-well-they-agree) agree that were made together.

![Concept and style by level of disentanglement](images/disentangle.svg)
"""


def build(
    pipe: VersatileDiffusionPipeline,
    folder: Path,
    picture: dict[str, Any],
    held_out: dict[str, Any],
    head: str = "# Gallery\n",
    only: list[str] | None = None,
) -> Iterator[tuple[str, float, int]]:
    """Writes the page and its pictures, part by part.

    Args:
        folder: that of the page.
        picture, held_out: the sample pictures and those of a data set, by name; parts that need missing ones are left
            out.
        head: the beginning of the page.
        only: names of parts; all where left out.

    Yields:
        Of each part its name, its seconds, and the bytes of its picture.

    Raises:
        ValueError: there is no such part, or the pictures are too large together.
    """
    if unknown := set(only or ()) - {entry.name for entry in ENTRIES}:
        raise ValueError(f"no part {min(unknown)!r}; there are: {', '.join(entry.name for entry in ENTRIES)}")
    (folder / PICTURES).mkdir(parents=True, exist_ok=True)
    parts, total = [head], 0
    for entry in ENTRIES:
        if (only and entry.name not in only) or (entry.held_out and not held_out):
            continue
        started = time.perf_counter()
        shown = entry.run(pipe, held_out if entry.held_out else picture)
        file = PICTURES / f"{entry.name}.webp"
        if shown.images:
            shown.sheet().save(folder / file, quality=80, method=6)
        parts.append(entry.markdown(shown, file.as_posix()))
        size = (folder / file).stat().st_size if shown.images else 0
        total += size
        yield entry.name, time.perf_counter() - started, size
    (folder / PAGE).write_text("\n".join([*parts, TAIL]), encoding="utf-8")
    if total > MOST_BYTES:
        raise ValueError(f"the pictures are {total:,} bytes together; at most {MOST_BYTES:,} are allowed")


def unseen(data: Path, count: int) -> dict[str, Image.Image]:
    """Pictures of `pair-test` without a sibling in training, spread evenly over it, by their labels."""
    emoji = EmojiSet.load(data, "pair-test")
    rows = np.flatnonzero(emoji.no_sibling)
    chosen = rows[np.linspace(0, len(rows) - 1, count).astype(int)]
    return {emoji.labels[row]: Image.fromarray(emoji.pictures[row]) for row in chosen}


def main(
    model: Annotated[str, typer.Option(help="Name of a shipped model, or a folder.")] = "emoji",
    data: Annotated[Path | None, typer.Option(help="The emoji set, for held-out pictures.")] = None,
    samples: Annotated[Path | None, typer.Option(help="Folder of sample pictures; the model's own.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the page.")] = Path("docs"),
    steps: Annotated[int | None, typer.Option(min=1, help="Of sampling; the model's own.")] = None,
    held_out: Annotated[int, typer.Option(min=1, help="Number of held-out pictures.")] = 5,
    only: Annotated[list[str] | None, typer.Option(help="A part of the page; may repeat.")] = None,
) -> None:
    """Build the gallery."""
    pipe = VersatileDiffusionPipeline.from_pretrained(model)
    pipe.set_progress_bar_config(disable=True)
    if steps is not None:
        each = {task.name: pipe.config.defaults.get(task.name, {}) for task in pipe.tasks()}
        pipe.register_to_config(defaults={name: row | {"num_inference_steps": steps} for name, row in each.items()})
    picture = {file.stem: str(file) for file in sample_pictures(model, samples)}
    command = "python scripts/make_gallery.py" + ("" if data is None else " --data data/emoji")
    head = HEAD.format(command=command, model=pipe.model_name, steps="" if steps is None else f"; {steps} steps each")
    total = 0.0
    for name, seconds, size in build(pipe, out, picture, {} if data is None else unseen(data, held_out), head, only):
        total += seconds
        print(f"{name:16} {seconds:6.1f} s {size:8,} bytes", flush=True)
    print(f"{out / PAGE}, {total:.0f} s")


if __name__ == "__main__":
    typer.run(main)
