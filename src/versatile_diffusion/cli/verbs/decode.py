"""`versatile decode`: decode latents, or generate from context tokens."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from versatile_diffusion.choices import unknown
from versatile_diffusion.cli.io.console import note, show, show_json, with_progress
from versatile_diffusion.cli.options import Device, Json, Model, Overwrite, Steps, tasks
from versatile_diffusion.flow import Flow
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.tasks import TASKS, Task, task_of

if TYPE_CHECKING:
    from versatile_diffusion import Embeddings, VersatileDiffusionPipeline


@dataclass(frozen=True)
class StoredItem:
    """An item in an embeddings file, its index and its output name."""

    embeddings: Embeddings
    stem: str
    number: int


def decode(
    inputs: Annotated[list[Path], typer.Argument(metavar="FILE", help="Embedding files, or folders of them.")],
    task: Annotated[
        str | None,
        typer.Option(metavar="NAME", autocompletion=tasks, help="Task for context tokens; default: variation."),
    ] = None,
    model: Model = "emoji",
    out: Annotated[Path, typer.Option(help="Output folder.")] = Path("out/decoded"),
    seed: Annotated[int, typer.Option(min=0, help="Random seed; item k of a file uses seed + k.")] = 0,
    steps: Steps = None,
    guidance_scale: Annotated[float | None, typer.Option(help="Classifier-free guidance scale.")] = None,
    any_encoder: Annotated[bool, typer.Option("--any-encoder", help="Accept embeddings of other encoders.")] = False,
    overwrite: Overwrite = False,
    device: Device = None,
    json: Json = False,
) -> None:
    """Decode latents to images and text, or generate from context tokens. A repeated call resumes and keeps existing
    outputs."""
    from versatile_diffusion.cli.io.files import check_folder, save_at_once
    from versatile_diffusion.cli.io.model import load

    check_folder(out)
    chosen = None if task is None else TASKS.get(task)
    if task is not None and chosen is None:
        raise ValueError(unknown("task", task, TASKS))
    items = list(items_of(inputs, any_encoder))
    tasks = [task_for(item.embeddings, chosen) for item in items]
    pipe = load(model, device)
    for made in {item.embeddings.made_as: item.embeddings for item in items}.values():
        made.check(pipe.bank)
    options = {"num_inference_steps": steps, "guidance_scale": guidance_scale}
    started = time.perf_counter()
    written, kept = [], []
    for item, its_task in with_progress(list(zip(items, tasks, strict=True)), "decoding"):
        made_of = its_task.flow.data if its_task else item.embeddings.modality
        target = out / f"{item.stem}{MODALITIES[made_of].suffix}"
        if target.exists() and not overwrite:
            kept.append(str(target))
            continue
        write = generate_item(pipe, item, its_task, model, seed, options) if its_task else decode_item(pipe, item)
        save_at_once(target, write)
        written.append(str(target))
    if json:
        return show_json({"files": written, "kept": kept})
    for file in written:
        show(file)
    note(f"{len(written)} written in {time.perf_counter() - started:.1f} s, {len(kept)} already existed (kept)")


def items_of(inputs: Sequence[Path], any_encoder: bool) -> Iterator[StoredItem]:
    """Yield all items in the given order, folders sorted by name.

    Raises:
        ValueError: a missing file, an empty folder, damaged files, or two items with the same output name.
    """
    from versatile_diffusion.records.embeddings import load_embeddings

    taken: dict[str, Path] = {}
    for given in inputs:
        files = sorted(given.rglob("*.safetensors")) if given.is_dir() else [given]
        if not files:
            raise ValueError(f"{given} holds no embeddings (.safetensors)")
        for file in files:
            embeddings = load_embeddings(file, any_encoder=any_encoder)
            below = file.relative_to(given).as_posix() if given.is_dir() else file.name
            ending = f".{embeddings.modality}-{embeddings.kind}.safetensors"
            stem = below.removesuffix(ending).removesuffix(".safetensors")
            if taken.setdefault(stem, file) is not file:
                raise ValueError(f"{taken[stem]} and {file} have the same output name; decode them to separate folders")
            for number, one in enumerate(embeddings):
                yield StoredItem(one, stem if len(embeddings) == 1 else f"{stem}-{number + 1:04d}", number)


def task_for(embeddings: Embeddings, chosen: Task | None) -> Task | None:
    """Return the task for context tokens: the chosen one, or their variation. None for latents, which are decoded."""
    if embeddings.kind == "latent" and chosen is None:
        return None
    modality = embeddings.modality
    task = chosen or task_of(Flow(modality, (modality,)))
    if task is None or task.flow.contexts != (modality,):
        able = ", ".join(other.name for other in TASKS.values() if other.flow.contexts == (modality,))
        raise ValueError(f"{modality} {embeddings.kind} embeddings support these tasks: {able}")
    return task


def decode_item(pipe: VersatileDiffusionPipeline, item: StoredItem) -> Callable[[BinaryIO], Any]:
    """Return the writer of a decoded latent."""
    return writer(item.embeddings.modality, pipe.decode_latent(item.embeddings)[0])


def generate_item(
    pipe: VersatileDiffusionPipeline, item: StoredItem, task: Task, model: str, seed: int, options: dict[str, Any]
) -> Callable[[BinaryIO], Any]:
    """Return the writer of the value that a task generates from an item."""
    from versatile_diffusion import Condition
    from versatile_diffusion.cli.io.results import record

    condition = Condition(item.embeddings.modality, item.embeddings)
    output = pipe.generate(task.flow.data, [condition], seed=seed + item.number, **options)
    return writer(output.data, output.values[0], record(output[0], model))


def writer(modality: str, value: Any, record: dict[str, Any] | None = None) -> Callable[[BinaryIO], Any]:
    """Return the writer of a value, with its record if there is one and the format can embed it."""
    from versatile_diffusion.records.png import write_value

    return lambda stream: write_value(modality, value, stream, record)
