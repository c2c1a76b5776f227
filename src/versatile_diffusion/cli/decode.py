"""`versatile decode`: files of latents or context tokens to pictures and texts."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import typer

from versatile_diffusion.choices import unknown
from versatile_diffusion.cli.console import note, show, show_json, tracked
from versatile_diffusion.cli.options import Device, Json, Model, Overwrite, Steps, tasks
from versatile_diffusion.flow import Flow
from versatile_diffusion.tasks import TASKS, Task

if TYPE_CHECKING:
    from versatile_diffusion import Embeddings, VersatileDiffusionPipeline

SUFFIXES = {"image": ".png", "text": ".txt"}


@dataclass(frozen=True)
class Item:
    """One item of a file of embeddings, the place for what is made of it, and its number in the file."""

    embeddings: Embeddings
    stem: str
    number: int


def decode(
    inputs: Annotated[list[Path], typer.Argument(metavar="FILE", help="Files of embeddings, or folders of them.")],
    task: Annotated[
        str | None,
        typer.Option(metavar="NAME", autocompletion=tasks, help="For tokens: what to do; a variation if left out."),
    ] = None,
    model: Model = "emoji",
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("out/decoded"),
    seed: Annotated[int, typer.Option(min=0, help="Item k of a file has seed + k.")] = 0,
    steps: Steps = None,
    guidance_scale: Annotated[float | None, typer.Option(help="How closely to follow the tokens.")] = None,
    any_encoder: Annotated[bool, typer.Option("--any-encoder", help="Take those of other encoders, too.")] = False,
    overwrite: Overwrite = False,
    device: Device = None,
    json: Json = False,
) -> None:
    """Turn latents back into pictures and texts, or generate from context tokens. Called again, it goes on where it
    stopped: what is there already is kept."""
    from versatile_diffusion.cli.files import check_folder, save_at_once
    from versatile_diffusion.cli.model import load

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
    for item, its_task in tracked(list(zip(items, tasks, strict=True)), "decoding"):
        target = out / f"{item.stem}{SUFFIXES[its_task.flow.data if its_task else item.embeddings.modality]}"
        if target.exists() and not overwrite:
            kept.append(str(target))
            continue
        write = generated(pipe, item, its_task, model, seed, options) if its_task else decoded(pipe, item)
        save_at_once(target, write)
        written.append(str(target))
    if json:
        return show_json({"files": written, "kept": kept})
    for file in written:
        show(file)
    note(
        f"{len(written)} written in {time.perf_counter() - started:.1f} s, {len(kept)} were there already and are kept"
    )


def items_of(inputs: Sequence[Path], any_encoder: bool) -> Iterator[Item]:
    """All items, in the order given, folders by name.

    Raises:
        ValueError: no such file or nothing in a folder; damaged files; two items with one place to write to.
    """
    from versatile_diffusion.sampling.embeddings import load_embeddings

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
                raise ValueError(f"{taken[stem]} and {file} would share one place; decode them to folders of their own")
            for number, one in enumerate(embeddings):
                yield Item(one, stem if len(embeddings) == 1 else f"{stem}-{number + 1:04d}", number)


def task_for(embeddings: Embeddings, chosen: Task | None) -> Task | None:
    """What to do with context tokens: the task chosen, or their variation. Latents are decoded: None."""
    from versatile_diffusion.sampling.request import task_of

    if embeddings.kind == "latent" and chosen is None:
        return None
    modality = embeddings.modality
    task = chosen or task_of(Flow(modality, (modality,)))
    if task is None or task.flow.contexts != (modality,):
        able = ", ".join(other.name for other in TASKS.values() if other.flow.contexts == (modality,))
        raise ValueError(f"with {modality} {embeddings.kind} embeddings alone these tasks can be done: {able}")
    return task


def decoded(pipe: VersatileDiffusionPipeline, item: Item) -> Callable[[BinaryIO], Any]:
    """What writes the raw value of a latent."""
    return writer(pipe.decode_latent(item.embeddings)[0])


def generated(
    pipe: VersatileDiffusionPipeline, item: Item, task: Task, model: str, seed: int, options: dict[str, Any]
) -> Callable[[BinaryIO], Any]:
    """What writes that which a task makes of an item."""
    from versatile_diffusion import Condition
    from versatile_diffusion.cli.results import record

    condition = Condition(item.embeddings.modality, item.embeddings)
    output = pipe.generate(task.flow.data, [condition], seed=seed + item.number, **options)
    return writer(output.values[0], record(output[0], model))


def writer(value: Any, record: dict[str, Any] | None = None) -> Callable[[BinaryIO], Any]:
    """What writes a text or a picture; a picture with the record of its making, where there is one."""
    from versatile_diffusion.sampling.metadata import save_png

    if isinstance(value, str):
        return lambda stream: stream.write(f"{' '.join(value.split())}\n".encode())
    if record is None:
        return lambda stream: value.save(stream, format="PNG")
    return lambda stream: save_png(value, stream, record)
