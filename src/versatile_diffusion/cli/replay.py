"""`versatile replay`: make again what a saved file tells of, and say whether it is the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from versatile_diffusion.cli.console import note, show, show_json
from versatile_diffusion.cli.options import Device, Json, models

if TYPE_CHECKING:
    from PIL import Image

    from versatile_diffusion import VersatileDiffusionPipeline

MOST_THREADS = 512
TEXT_SUFFIXES = (".txt", ".json")


@dataclass(frozen=True)
class Saved:
    """What a file holds: a picture or texts, and the record of their making."""

    content: Image.Image | list[str]
    record: dict[str, Any]


def replay(
    file: Annotated[Path, typer.Argument(help="What a `versatile` command saved: a picture, a grid, texts, a sweep.")],
    model: Annotated[
        str | None, typer.Option(help="In place of the model that the file names.", autocompletion=models)
    ] = None,
    embeddings: Annotated[
        list[Path] | None, typer.Option(help="Files (or folders) of the tokens and latents that it was made from.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder to write to; the file's own if left out.")] = None,
    device: Device = None,
    json: Json = False,
) -> int:
    """Make a saved output again from its settings; exit code 1 if it is not the same, to the pixel or the word."""
    import torch

    from versatile_diffusion.cli.files import check_folder
    from versatile_diffusion.cli.model import load

    folder = out or file.parent
    check_folder(folder)
    before = read(file)
    record = before.record
    try:
        pipe = load(model or record.get("from_pretrained") or record["model"]["name"], device)
        torch.set_num_threads(threads_of(record))  # rounding depends on how sums are split
        after = again(pipe, record, finder(file.parent, known_embeddings(embeddings or ())))
    except (KeyError, IndexError, TypeError, AttributeError, OverflowError) as error:  # of what a record may hold
        raise ValueError(f"the record of {file} is incomplete or damaged ({type(error).__name__}: {error})") from error
    if isinstance(before.content, list) or isinstance(after, list):
        return compared_texts(before.content, after, record, json)
    return compared_pictures(before.content, after, record, file, folder, json)


def threads_of(record: Mapping[str, Any]) -> int:
    """How many threads computed it; ValueError if the record tells no such number."""
    threads = record["threads"]
    if type(threads) is not int or not 1 <= threads <= MOST_THREADS:
        raise ValueError(f"the record was made with {threads!r} threads; it must be a number from 1 to {MOST_THREADS}")
    return threads


def again(
    pipe: VersatileDiffusionPipeline, record: dict[str, Any], resolve: Callable[[dict[str, Any]], Any]
) -> Image.Image | list[str]:
    """What the record tells of: a picture, a grid, a sheet, or texts."""
    from versatile_diffusion.applications import again as applications
    from versatile_diffusion.cli.files import grid
    from versatile_diffusion.cli.results import one_line
    from versatile_diffusion.cli.sweep import Axis, sheet

    if "sweep" in record:
        outputs = [applications.replay(pipe, cell["settings"], resolve) for cell in record["cells"]]
        if "texts" in record["cells"][0]:
            return [text for output in outputs for text in output.texts]
        return sheet(outputs, [Axis(name, tuple(values)) for name, values in record["sweep"]])
    output = applications.replay(pipe, record, resolve)
    if output.data == "text":
        return [one_line(text) for text in output.texts]
    return output.images[0] if "index" in record else grid(output.images)


def read(file: Path) -> Saved:
    """The picture or texts of a file and their record; ValueError if there is none."""
    from PIL import Image

    from versatile_diffusion.modalities.image import check_image
    from versatile_diffusion.sampling.metadata import read_record

    if file.suffix in TEXT_SUFFIXES:
        return _read_texts(file.with_suffix(".json"))
    picture = check_image(str(file))
    with Image.open(file) as opened:
        return Saved(picture, read_record(opened, file))


def _read_texts(file: Path) -> Saved:
    from versatile_diffusion.sampling.metadata import parse_record

    if not file.is_file():
        raise ValueError(f"{file}: no such file; texts are replayed from the .json beside them")
    try:
        record = parse_record(file.read_text(encoding="utf-8"), "it")
        cells = record.get("cells", [])
        return Saved([text for cell in cells for text in cell["texts"]] if cells else record["texts"], record)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} holds no record of texts that this library saved ({error})") from error


def compared_texts(before: Any, after: Any, record: dict[str, Any], json: bool) -> int:
    """Tells whether texts are the same, 0 or 1."""
    same = before == after
    if json:
        show_json({"identical": same, "texts": after})
    else:
        show("identical: every text is the same" if same else "different:\n" + "\n".join(map(str, after)))
    if not same:
        note(f"made by {record.get('library')}; the same texts are only promised for the same software and machine")
    return int(not same)


def compared_pictures(
    before: Image.Image, after: Image.Image, record: dict[str, Any], file: Path, folder: Path, json: bool
) -> int:
    """Saves the picture made again and tells whether it is the same, 0 or 1."""
    from versatile_diffusion.cli.files import free_path
    from versatile_diffusion.sampling.metadata import save_png

    folder.mkdir(parents=True, exist_ok=True)
    new = free_path(folder / f"{file.stem}-replay.png")
    save_png(after, new, {name: value for name, value in record.items() if name != "schema"})
    largest, share = difference(before, after)
    if json:
        show_json({"identical": largest == 0, "largest_difference": largest, "share": share, "file": str(new)})
    elif largest == 0:
        show(f"identical: {new} equals {file} in every pixel")
    else:
        show(f"different: {new} differs from {file} in {share:.2%} of all values, by at most {largest} of 255")
        note(f"made by {record.get('library')}; the same bits are only promised for the same software and machine")
    return int(largest != 0)


def known_embeddings(places: Sequence[Path]) -> dict[str, Any]:
    """The tokens and latents in files and folders, whole files and their items, by the hash that records have."""
    from versatile_diffusion.sampling.embeddings import SUFFIX, load_embeddings
    from versatile_diffusion.sampling.output import record_of

    files = [file for place in places for file in (sorted(place.rglob(f"*{SUFFIX}")) if place.is_dir() else [place])]
    held = [load_embeddings(file, any_encoder=True) for file in files]
    forms = [form for one in held for form in (one.tensor, *one.tensor, *(item.tensor for item in one))]
    return {record_of(None, form)["sha256"]: form for form in forms}


def finder(folder: Path, embeddings: Mapping[str, Any]) -> Callable[[dict[str, Any]], Any]:
    """Finds an input of a record: among `embeddings` by its hash, or its file where it was or beside the output."""

    def find(value: dict[str, Any]) -> Any:
        if value["sha256"] in embeddings:
            return embeddings[value["sha256"]]
        if "file" not in value:
            raise ValueError(
                f"an input of shape {tuple(value['shape'])} came from no file that the record names; if these are "
                f"tokens or latents, give their file with --embeddings (sha256 {value['sha256'][:12]})"
            )
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
