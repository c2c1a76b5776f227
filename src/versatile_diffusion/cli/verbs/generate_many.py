"""`versatile generate-many`: a table of inputs to shards of outputs."""

from __future__ import annotations

import inspect
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from versatile_diffusion.choices import chosen
from versatile_diffusion.cli.options import FLAGS, CommandOptions, among, parameters, tasks
from versatile_diffusion.controls import REQUEST, RUN, by_option
from versatile_diffusion.tasks import TASKS

OF_FILES = frozenset({"out", "captions", "overwrite", "preview", "show_plan", "match_colours"})
"""Options of single commands that have no meaning here."""
OWN: dict[str, tuple[Any, Any]] = {
    "input": (
        Annotated[
            str,
            typer.Option(
                metavar="FILE", help="Table: .parquet, .csv, .tsv or .jsonl, or a pattern; one row per input."
            ),
        ],
        inspect.Parameter.empty,
    ),
    "out": (
        Annotated[Path, typer.Option(help="Output folder; an interrupted run there is resumed.")],
        inspect.Parameter.empty,
    ),
    "task": (
        Annotated[str, typer.Option(metavar="NAME", help="Task of all rows.", autocompletion=tasks)],
        "text-to-image",
    ),
    "format": (
        Annotated[
            str,
            typer.Option(
                metavar="NAME", help="Format of the shards: webdataset or parquet.", autocompletion=among("format")
            ),
        ],
        "webdataset",
    ),
    "shard": (Annotated[int, typer.Option(min=1, help="Rows per shard.")], 1000),
    "batch": (Annotated[int, typer.Option(min=1, help="Rows generated together.")], 8),
    "ray": (Annotated[str | None, typer.Option(metavar="ADDRESS", help="Ray cluster; local starts one here.")], None),
}


def command() -> Callable[..., int]:
    """Build the command: its own options, and those of a generation."""

    def run(**named: Any) -> int:
        own = {name: named.pop(name) for name in OWN}
        return generate_many(CommandOptions.of(named), **own)

    keyword = inspect.Parameter.KEYWORD_ONLY
    taken = [
        inspect.Parameter(name, keyword, default=default, annotation=kind) for name, (kind, default) in OWN.items()
    ]
    taken += parameters(None, without=OF_FILES)
    run.__signature__ = inspect.Signature(taken)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in taken}
    run.__doc__ = """Generate from every row of a table, and write shards with a record of each result.

    The column named after an input (text, image; also prompt, caption, TEXT, path, file) holds it; columns named like
    options (seed, guidance_scale, negative_prompt, style, ...) set them for their row, and image.mask or text.weight
    those of a condition. All others are copied into the record.

    Stopped or killed, the same command continues and repeats nothing that is done. Failed rows are listed in
    *.failed.jsonl and counted in ledger.json.
    """
    return run


def generate_many(
    options: CommandOptions,
    *,
    input: str,
    out: Path,
    task: str,
    format: str,
    shard: int,
    batch: int,
    ray: str | None,
) -> int:
    """Generate, and report; return the exit code."""
    from versatile_diffusion.cli.io.console import note, show, show_json
    from versatile_diffusion.cli.io.files import check_folder
    from versatile_diffusion.cli.io.model import find_device, without_bars
    from versatile_diffusion.cli.verbs.generate import check_names
    from versatile_diffusion.serving.many.cluster import by_ray_data
    from versatile_diffusion.serving.many.order import GenerationOrder, pieces, read_order
    from versatile_diffusion.serving.many.rows import Table
    from versatile_diffusion.serving.many.work import done_already
    from versatile_diffusion.serving.many.work import generate_many as generate

    chosen("task", task, TASKS)
    check_names(options)
    check_folder(out)
    check_options(options, task)
    without_bars()
    order = GenerationOrder(
        Table(input),
        out,
        task,
        seed=read_order(out).get("seed", secrets.randbelow(2**32)) if options.seed is None else options.seed,
        model=options.model,
        dtype=options.dtype,
        device=None if options.device is None and ray is not None else find_device(options.device),
        options=options.arguments(),
        fields={modality: options.of_condition(modality) for modality in TASKS[task].flow.contexts},
        form=format,
        rows=shard,
        batch=batch,
    )
    inputs = pieces(order)
    if kept := done_already(order, inputs):
        note(f"{kept} rows of an earlier run are kept")
    total = generate(order, inputs, by_ray_data(ray), lambda done, of: note(f"{done} of {of} shards"))
    failed = sum(total["failed"].values())
    if options.json:
        show_json({"folder": str(out), "seed": order.seed, "kept": kept, **total})
    else:
        for reason, count in total["failed"].items():
            show(f"{reason:40} {count:10,}")
        show(f"{'items':40} {total['items']:10,} of {total['rows'] - failed:,} rows in {total['shards']} shards")
        if failed:
            note(f"{out}/*.failed.jsonl name the rows that failed, and why")
    return int(failed > 0)


def check_options(options: CommandOptions, task: str) -> None:
    """ValueError if an option does not belong to a task, or its value is not allowed."""
    from versatile_diffusion.cli.options import flag
    from versatile_diffusion.flow import Condition
    from versatile_diffusion.pipeline.request import Request

    flow = TASKS[task].flow
    for name, control in by_option(REQUEST, RUN, FLAGS).items():
        if name in options.given and not control.belongs(flow):
            raise ValueError(f"{flag(name)} is no option of {task}")
    some = tuple(Condition(m, "", **options.of_condition(m)) for m in flow.contexts)
    Request(flow.data, some, **options.arguments())
