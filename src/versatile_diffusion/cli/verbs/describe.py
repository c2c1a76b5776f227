"""`versatile describe`: tasks, streams and parameters of a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from versatile_diffusion.cli.io.console import show, show_json, stdout
from versatile_diffusion.cli.options import Json, Model

if TYPE_CHECKING:
    from versatile_diffusion import VersatileDiffusionPipeline


def describe(
    model: Model = "emoji",
    vocabulary: Annotated[
        bool, typer.Option("--vocabulary", help="List the concepts it was trained on instead.")
    ] = False,
    json: Json = False,
) -> None:
    """Show a model's tasks, streams, parameters by group, styles and file sizes."""
    from versatile_diffusion.cli.io.model import load
    from versatile_diffusion.pipeline.models import find_model

    pipe = load(model, "cpu")
    if vocabulary:
        return show_vocabulary(pipe, json)
    facts = facts_of(pipe, Path(find_model(model)))
    if json:
        return show_json(facts)
    show_tables(facts)


def show_vocabulary(pipe: VersatileDiffusionPipeline, json: bool) -> None:
    """Print the concepts that the model was trained on, one per line with synonyms.

    Raises:
        ValueError: the model has no vocabulary.
    """
    known = pipe.config.vocabulary
    if not known:
        raise ValueError(f"{pipe.model_name} has no vocabulary; try any words")
    if json:
        return show_json({name: list(words) for name, words in known.items()})
    for name, words in known.items():
        show(f"{name}: {', '.join(words)}")


def facts_of(pipe: VersatileDiffusionPipeline, folder: Path) -> dict[str, Any]:
    """Describe a model as plain JSON; `folder` is where it is stored (no sizes if elsewhere)."""
    from versatile_diffusion.diffuser.groups import parameter_counts
    from versatile_diffusion.sampling.schedulers import scheduler_name

    parts = {name: sum(p.numel() for p in part.parameters()) for name, part in pipe.bank.parts.items()}
    sizes = {
        str(file.relative_to(folder)): file.stat().st_size
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not file.name.startswith(".")
    }
    return {
        "model": pipe.model_name,
        "tasks": {task.name: str(task.flow) for task in pipe.tasks()},
        "streams": {"data": list(pipe.unet.data), "context": list(pipe.unet.context)},
        "parameters": {"diffuser": parameter_counts(pipe.unet), "codecs and context encoders": parts},
        "classes": {name: type(part).__name__ for name, part in pipe.bank.parts.items()},
        "scheduler": scheduler_name(pipe.scheduler) or type(pipe.scheduler).__name__,
        "styles": dict(pipe.config.styles),
        "defaults": dict(pipe.config.defaults),
        "bytes": sizes,
    }


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
