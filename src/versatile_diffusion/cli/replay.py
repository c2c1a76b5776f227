"""`versatile replay`: make again what a saved file tells of, and say whether it is the same."""

from __future__ import annotations

import json as json_format
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from versatile_diffusion.cli.console import note, show, show_json

if TYPE_CHECKING:
    from PIL import Image

MOST_THREADS = 1024


def replay(
    file: Annotated[Path, typer.Argument(help="A picture or a grid that a `versatile` command saved.")],
    model: Annotated[str | None, typer.Option(help="In place of the model that the picture names.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write to; the picture's own if left out.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> int:
    """Make a saved picture again from the settings inside it; exit code 1 if it is not the same, pixel for pixel."""
    import torch

    from versatile_diffusion.cli.files import check_folder, free_path, grid
    from versatile_diffusion.cli.model import load
    from versatile_diffusion.sampling.metadata import save_png

    folder = out or file.parent
    check_folder(folder)
    before, record = read(file)
    try:
        pipe = load(model or record.get("from_pretrained") or record["model"]["name"])
        torch.set_num_threads(
            min(max(int(record["threads"]), 1), MOST_THREADS)
        )  # rounding depends on how sums are split
        output = pipe.replay(record, resolve=finder(file.parent))
    except (KeyError, TypeError) as error:
        raise ValueError(f"the record of {file} is incomplete or damaged ({error})") from error
    after = output.images[0] if "index" in record else grid(output.images)
    folder.mkdir(parents=True, exist_ok=True)
    again = free_path(folder / f"{file.stem}-replay.png")
    save_png(after, again, {name: value for name, value in record.items() if name != "schema"})
    largest, share = difference(before, after)
    if json:
        show_json({"identical": largest == 0, "largest_difference": largest, "share": share, "file": str(again)})
    elif largest == 0:
        show(f"identical: {again} equals {file} in every pixel")
    else:
        show(f"different: {again} differs from {file} in {share:.2%} of all values, by at most {largest} of 255")
        note(f"made by {record.get('library')}; the same bits are only promised for the same software and machine")
    return int(largest != 0)


def read(file: Path) -> tuple[Image.Image, dict[str, Any]]:
    """The picture and its record; ValueError if there is none."""
    from PIL import Image

    from versatile_diffusion.modalities.image import check_image
    from versatile_diffusion.sampling.metadata import read_record

    picture = check_image(str(file))
    with Image.open(file) as opened:
        return picture, read_record(opened, file)


def finder(folder: Path) -> Callable[[dict[str, Any]], Any]:
    """Finds an input file of a record: where it was, or beside the picture."""

    def find(value: dict[str, Any]) -> str:
        if "file" not in value:
            raise ValueError(f"the record names no file for its input {json_format.dumps(value)}, so it has no replay")
        places = [Path(value["file"]), folder / value["file"], folder / Path(value["file"]).name]
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            raise ValueError(f"the input picture is gone; put it back at one of {', '.join(map(str, places))}")
        return str(found)

    return find


def difference(one: Image.Image, other: Image.Image) -> tuple[int, float]:
    """The largest difference (0..255) between two pictures, and the share of values that differ at all."""
    import numpy as np

    if one.size != other.size:
        return 255, 1.0
    apart = np.abs(np.asarray(one.convert("RGB"), np.int16) - np.asarray(other.convert("RGB"), np.int16))
    return int(apart.max()), float((apart > 0).mean())
