"""`versatile describe`: tasks, streams and parameters of a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from versatile_diffusion.cli.io.console import show, show_json, stdout
from versatile_diffusion.cli.options import Json, Model


def describe(
    model: Model = "emoji",
    vocabulary: Annotated[
        bool, typer.Option("--vocabulary", help="List the concepts it was trained on instead.")
    ] = False,
    json: Json = False,
) -> None:
    """Show a model's tasks, streams, parameters by group, styles and file sizes."""
    from versatile_diffusion.shipped import find_model, is_ours

    folder = Path(find_model(model))
    facts, known = _of_folder(folder, model) if is_ours(folder) else _of_model(folder, model)
    if vocabulary:
        return show_vocabulary(facts["model"], known, json)
    if json:
        return show_json(facts)
    show_tables(facts)


def show_vocabulary(name: str, known: Mapping[str, Sequence[str]], json: bool) -> None:
    """Print the concepts that the model was trained on, one per line with synonyms.

    Raises:
        ValueError: the model has no vocabulary.
    """
    if not known:
        raise ValueError(f"{name} has no vocabulary; try any words")
    if json:
        return show_json({name: list(words) for name, words in known.items()})
    for concept, words in known.items():
        show(f"{concept}: {', '.join(words)}")


def _of_folder(folder: Path, model: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Facts and vocabulary by the headers of a folder in our layout; torch is not imported."""
    from versatile_diffusion.pipeline.facts import facts_of
    from versatile_diffusion.reading import read_json
    from versatile_diffusion.shipped import INDEX

    return facts_of(folder, Path(model).name), dict(read_json(folder / INDEX).get("vocabulary") or {})


def _of_model(folder: Path, model: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Facts and vocabulary of a model in any other layout, which has to be loaded."""
    from versatile_diffusion.cli.io.model import load
    from versatile_diffusion.diffuser.groups import parameter_counts
    from versatile_diffusion.pipeline.facts import bytes_of
    from versatile_diffusion.sampling.schedulers import scheduler_name

    pipe = load(model, "cpu")
    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in pipe.bank.parts.items()}
    facts = {
        "model": pipe.model_name,
        "tasks": {task.name: str(task.flow) for task in pipe.tasks()},
        "streams": {"data": list(pipe.unet.data), "context": list(pipe.unet.context)},
        "parameters": {"diffuser": parameter_counts(pipe.unet), "codecs and context encoders": parts},
        "classes": {name: type(part).__name__ for name, part in pipe.bank.parts.items()},
        "scheduler": scheduler_name(pipe.scheduler) or type(pipe.scheduler).__name__,
        "styles": dict(pipe.config.styles),
        "defaults": dict(pipe.config.defaults),
        "distilled": [],
        "bytes": bytes_of(folder),
    }
    return facts, dict(pipe.config.vocabulary)


def show_tables(facts: dict[str, Any]) -> None:
    """Print the description as tables."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    table.add_row("model", facts["model"])
    table.add_row("tasks", ", ".join(f"{name} ({flow})" for name, flow in facts["tasks"].items()))
    for group, streams in facts["streams"].items():
        table.add_row(f"{group} streams", ", ".join(streams))
    table.add_row("scheduler", facts["scheduler"])
    if facts["distilled"]:
        table.add_row("distilled", ", ".join(f"--fast {name}" for name in facts["distilled"]))
    table.add_row("styles", ", ".join(facts["styles"]) or "none")
    stdout.print(table)
    counts = Table("parameters", "", box=None, pad_edge=False)
    counts.columns[1].justify = "right"
    for title, rows in facts["parameters"].items():
        counts.add_section()
        for name, count in rows.items():
            kind = f" ({facts['classes'][name]})" if name in facts["classes"] else ""
            counts.add_row(f"  {name}{kind}", f"{count:,}")
        counts.add_row(title, f"{sum(rows.values()):,}")
    stdout.print()
    stdout.print(counts)
    files = Table("on disk", "", box=None, pad_edge=False)
    files.columns[1].justify = "right"
    large = {name: size for name, size in facts["bytes"].items() if name.endswith((".safetensors", ".bin"))}
    for name, size in large.items():
        files.add_row(f"  {name}", f"{size / 1e6:.1f} MB")
    files.add_row("all files", f"{sum(facts['bytes'].values()) / 1e6:.1f} MB")
    stdout.print()
    stdout.print(files)
