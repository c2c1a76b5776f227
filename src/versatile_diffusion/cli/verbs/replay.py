"""`versatile replay`: reproduce a saved output, and report whether it is identical."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from versatile_diffusion.cli.io.console import note, show, show_json
from versatile_diffusion.cli.options import Device, Json, models
from versatile_diffusion.printable import shown
from versatile_diffusion.reading import entry, naming, read_json, reading

if TYPE_CHECKING:
    from PIL import Image

    from versatile_diffusion import VersatileDiffusionPipeline

MOST_THREADS = 512
RECORD = ".json"
THIS = "the texts or settings"


@dataclass(frozen=True)
class Saved:
    """Content of a saved file: texts, an image (or a grid or sheet), or a value of `modality`; and its record."""

    content: Any
    record: dict[str, Any]
    modality: str | None = None


def replay(
    file: Annotated[Path, typer.Argument(help="File saved by a `versatile` command: image, grid, texts or sweep.")],
    model: Annotated[
        str | None,
        typer.Option(help="Model to use instead of the recorded one; required for a hub id.", autocompletion=models),
    ] = None,
    embeddings: Annotated[
        list[Path] | None, typer.Option(help="Files or folders of the input tokens and latents.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Output folder; default: the file's own.")] = None,
    device: Device = None,
    json: Json = False,
) -> int:
    """Reproduce a saved output from its settings; exit code 1 if any pixel or word differs."""
    import torch

    from versatile_diffusion.cli.io.files import check_folder
    from versatile_diffusion.cli.io.model import load
    from versatile_diffusion.pipeline.models import dtype_of_record, model_of_record
    from versatile_diffusion.pipeline.precision import Precision

    folder = out or file.parent
    check_folder(folder)
    before = read(file)
    record = before.record
    with naming(file):
        threads = threads_of(record)
        name = model or model_of_record(record)
        dtype = Precision.of(dtype_of_record(record), lambda: torch.float32).record()
    pipe = load(name, device, dtype)
    torch.set_num_threads(threads)  # rounding depends on the number of threads
    with naming(file):  # its settings are untrusted
        after = again(pipe, record, finder(file, known_embeddings(embeddings or ())))
    if isinstance(before.content, list) or isinstance(after, list):
        return compare_texts(before.content, after, record, json)
    if before.modality is not None:
        return compare_values(before, after, file, folder, json)
    return compare_images(before.content, after, record, file, folder, json)


def threads_of(record: Mapping[str, Any]) -> int:
    """Return the recorded number of threads; ValueError if invalid."""
    threads = record.get("threads")
    if type(threads) is not int or not 1 <= threads <= MOST_THREADS:
        raise ValueError(f"the record has {shown(threads)} threads; it must be a number from 1 to {MOST_THREADS}")
    return threads


def again(
    pipe: VersatileDiffusionPipeline, record: dict[str, Any], resolve: Callable[[dict[str, Any]], Any]
) -> Image.Image | list[str]:
    """Reproduce what the record describes: a value (an image or another), a grid, a sheet, or texts."""
    from versatile_diffusion.applications import again as applications
    from versatile_diffusion.applications import sweep
    from versatile_diffusion.modalities import MODALITIES
    from versatile_diffusion.sheets import grid

    if "sweep" in record:
        return sweep.replay(pipe, record, resolve)
    output = applications.replay(pipe, record, resolve)
    modality = MODALITIES[output.data]
    if modality.together:
        return [modality.line(value) for value in output.values]
    if "index" in record or modality.draw is None:
        return output.values[0]
    return grid([modality.draw(value) for value in output.values])


def read(file: Path) -> Saved:
    """Read a file's content and record; ValueError if it has none."""
    from versatile_diffusion.cli.io.results import record_in
    from versatile_diffusion.modalities import MODALITIES

    if file.suffix == RECORD:
        return _read_json(file)
    modality = MODALITIES.of_suffix(file.suffix)
    if modality is not None and modality.together:
        return _read_texts(file.with_suffix(RECORD))
    known = modality or next(record for record in MODALITIES.values() if record.embeds)
    return Saved(known.check(file), record_in(file), None if known.embeds else known.name)


def _read_json(file: Path) -> Saved:
    """Read the texts of a JSON file, or the value in the file it belongs to."""
    from versatile_diffusion.modalities import MODALITIES

    if file.is_file():
        with reading(file, "a record that this library saved"):
            data = read_json(file).get("data")
        known = MODALITIES.get(str(data))
        if known is not None and not known.together and (beside := file.with_suffix(known.suffix)).is_file():
            return read(beside)
    return _read_texts(file)


def _read_texts(file: Path) -> Saved:
    if not file.is_file():
        raise ValueError(f"{file}: no such file; texts are replayed from the .json file beside them")
    with naming(file):
        record = read_json(file)
        holders = entry(record, "cells", list, THIS) if "cells" in record else [record]
        texts = [text for holder in holders for text in entry(holder, "texts", list, THIS)]
        if not texts or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{THIS} are damaged: its texts are {shown(texts)}")
        return Saved(texts, record)


def compare_texts(before: Any, after: Any, record: dict[str, Any], json: bool) -> int:
    """Report whether the texts are identical; return the exit code 0 or 1."""
    same = before == after
    if json:
        show_json({"identical": same, "texts": after})
    else:
        show("identical: all texts match" if same else "different:")
        for text in () if same else after:
            show(str(text))
    if not same:
        note(f"generated by {record.get('library')}; texts only match exactly with the same software and machine")
    return int(not same)


def compare_values(before: Saved, after: Any, file: Path, folder: Path, json: bool) -> int:
    """Save the reproduced value and report whether it is identical; return the exit code 0 or 1."""
    import numpy as np

    from versatile_diffusion.cli.io.files import save_new, variants
    from versatile_diffusion.modalities import MODALITIES
    from versatile_diffusion.records.png import write_value

    assert before.modality is not None
    modality = MODALITIES[before.modality]
    names = variants(folder / f"{file.stem}-replay{modality.suffix}")
    (new,) = save_new(names, partial(write_value, modality.name, after, record=before.record))
    # Files may store rounded values, so compare the value as saved and read back.
    same = np.array_equal(modality.numbers(before.content), modality.numbers(modality.check(new)))
    if json:
        show_json({"identical": same, "file": str(new)})
    else:
        show(f"identical: {new} equals {file}" if same else f"different: {new} differs from {file}")
    if not same:
        note(
            f"generated by {before.record.get('library')}; values only match exactly with the same software and machine"
        )
    return int(not same)


def compare_images(
    before: Image.Image, after: Image.Image, record: dict[str, Any], file: Path, folder: Path, json: bool
) -> int:
    """Save the reproduced image and report whether it is identical; return the exit code 0 or 1."""
    from versatile_diffusion.cli.io.files import save_new, variants
    from versatile_diffusion.records.png import save_png

    told = {name: value for name, value in record.items() if name != "schema"}
    (new,) = save_new(variants(folder / f"{file.stem}-replay.png"), partial(save_png, after, record=told))
    largest, share = difference(before, after)
    if json:
        show_json({"identical": largest == 0, "largest_difference": largest, "share": share, "file": str(new)})
    elif largest == 0:
        show(f"identical: {new} equals {file} in every pixel")
    else:
        show(f"different: {new} differs from {file} in {share:.2%} of all values, by at most {largest} of 255")
        note(f"generated by {record.get('library')}; bits only match exactly with the same software and machine")
    return int(largest != 0)


def known_embeddings(places: Sequence[Path]) -> dict[str, Any]:
    """Load tokens and latents from files and folders, whole and item by item, by their recorded hash."""
    from versatile_diffusion.records.embeddings import SUFFIX, load_embeddings
    from versatile_diffusion.records.record import record_of

    files = [file for place in places for file in (sorted(place.rglob(f"*{SUFFIX}")) if place.is_dir() else [place])]
    held = [load_embeddings(file, any_encoder=True) for file in files]
    forms = [form for one in held for form in (one.tensor, *one.tensor, *(item.tensor for item in one))]
    return {record_of(None, form)["sha256"]: form for form in forms}


def finder(output: Path, embeddings: Mapping[str, Any]) -> Callable[[dict[str, Any]], Any]:
    """Return a function that finds a recorded input: among `embeddings` by hash, or as a file at its recorded path or
    beside the output."""
    folder = output.parent
    from versatile_diffusion.pipeline.models import NETWORK_PATH

    def find(value: dict[str, Any]) -> Any:
        if value["sha256"] in embeddings:
            return embeddings[value["sha256"]]
        if value.get("file") is None:
            raise ValueError(
                f"an input of {output}, of shape {tuple(value.get('shape', ()))}, has no recorded file; "
                f"if it was tokens or latents, give their file with --embeddings (sha256 "
                f"{value['sha256'][:12]})"
            )
        beside = folder / Path(value["file"]).name
        places = [Path(value["file"]), folder / value["file"], beside]
        if NETWORK_PATH.match(value["file"]):
            places = [beside]
        found = next((place for place in places if place.is_file()), None)
        if found is None:
            raise ValueError(
                f"the input image of {output} is missing; restore it at one of {', '.join(map(str, places))}"
            )
        return str(found)

    return find


def difference(one: Image.Image, other: Image.Image) -> tuple[int, float]:
    """Return the largest difference (0..255) between two images, and the share of values that differ."""
    import numpy as np

    if one.size != other.size:
        return 255, 1.0
    apart = np.abs(np.asarray(one.convert("RGB"), np.int16) - np.asarray(other.convert("RGB"), np.int16))
    return int(apart.max()), float((apart > 0).mean())
