"""`versatile evaluate`: how good a model is, under a protocol."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from versatile_diffusion.cli.console import note, show, show_json, stdout, working
from versatile_diffusion.cli.options import Device, among, models, tasks

if TYPE_CHECKING:
    import torch

    from versatile_diffusion.evaluation.evaluate import Sample
    from versatile_diffusion.evaluation.protocol import Protocol
    from versatile_diffusion.evaluation.results import Result, Table

SWEEPS = {"guidance_scale": float, "steps": int, "count": int, "candidates": int}


def evaluate(
    model: Annotated[
        str, typer.Option(help="A model of ours or a baseline: a name, a folder or a hub id.", autocompletion=models)
    ] = "emoji",
    data: Annotated[Path | None, typer.Option(help="The emoji set that `versatile data emoji` builds.")] = None,
    protocol: Annotated[
        str, typer.Option(help="quick, full, varied, or a JSON file.", autocompletion=among("protocol"))
    ] = "quick",
    judge: Annotated[str | None, typer.Option(help="Folder of the judge of pictures.")] = None,
    encoders: Annotated[str | None, typer.Option(help="own, a model, or a CLIP folder: measure agreement.")] = None,
    features: Annotated[list[str] | None, typer.Option(help="For FID, ...: judge, encoders, a file, a model.")] = None,
    split: Annotated[list[str] | None, typer.Option(help="Parts of the data set.")] = None,
    task: Annotated[list[str] | None, typer.Option(help="Only these tasks.", autocompletion=tasks)] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Items of each split.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Of sampling.")] = None,
    scheduler: Annotated[str | None, typer.Option(help="Of sampling.", autocompletion=among("scheduler"))] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="For every task, in place of the model's own.")] = None,
    candidates: Annotated[int | None, typer.Option(min=1, help="Made for each output; the best is kept.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="The first.")] = None,
    sweep: Annotated[str | None, typer.Option(help="Vary one thing: guidance_scale=1,2,4 or steps=5,10,20.")] = None,
    samples: Annotated[int | None, typer.Option(help="Training samples that the model saw, for plots.")] = None,
    against: Annotated[list[str] | None, typer.Option(help="Other models to measure alike, and compare with.")] = None,
    page: Annotated[Path | None, typer.Option(help="Write a Markdown page too, its pictures below images/.")] = None,
    compare: Annotated[list[Path] | None, typer.Option(help="Results to set side by side; measures nothing.")] = None,
    along: Annotated[str | None, typer.Option(help="With --compare: draw against samples, steps, ...")] = None,
    out: Annotated[Path, typer.Option(help="Folder for results.json, report.html and sheets.")] = Path("evaluation"),
    device: Device = None,
    json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Measure a model on held-out items; or compare results measured under one protocol."""
    if compare:
        return drawn(compare, along, out, json) if along else side_by_side(compare, json)
    if data is None or not data.is_dir():
        what = "missing" if data is None else data
        raise ValueError(f"--data is {what}; it must be the folder of a data set (`versatile data emoji --out DIR`)")
    from versatile_diffusion.evaluation.protocol import Protocol

    changes: dict[str, Any] = {
        "judge": judge, "encoders": encoders, "features": features, "splits": split, "count": count, "steps": steps,
        "scheduler": scheduler, "guidance_scale": guidance_scale, "candidates": candidates, "seed": seed,
    }  # fmt: skip
    asked = replace(Protocol.read(protocol), **{name: value for name, value in changes.items() if value is not None})
    field, protocols = swept(asked, sweep)
    place = placed(device)
    for name in against or []:
        check_other(name, protocols[-1], task or [])
    results, made = measured(model, data, protocols, task or [], samples, out, field, place)
    others = [measured_alike(name, model, data, results[-1], task or [], out, place) for name in against or []]
    from versatile_diffusion.evaluation.markdown import write_page
    from versatile_diffusion.evaluation.report import write_report

    write_report(out, results, made, field, others)
    if page is not None:
        write_page(page, results, made, others, field)
    if json:
        show_json([result.plain() for result in results] if field else results[-1].plain())
    else:
        show_tables(results[-1])
    note(f"{out / 'results.json'} has the numbers, {out / 'report.html'} shows them with samples")


def placed(device: str | None) -> torch.device:
    """The device by name, the GPU where there is one if left out; ValueError if there is none of that name."""
    import torch

    from versatile_diffusion.cli.model import found_device

    return torch.device(found_device(device))


def swept(protocol: Protocol, sweep: str | None) -> tuple[str | None, list[Protocol]]:
    """The field that is varied, and a protocol for each of its values.

    Raises:
        ValueError: the text does not read `field=value,value,...`.
    """
    if sweep is None:
        return None, [protocol]
    field, _, values = sweep.partition("=")
    try:
        kind = SWEEPS[field]
        return field, [replace(protocol, **{field: kind(value)}) for value in values.split(",")]
    except (KeyError, ValueError) as error:
        fields = ", ".join(SWEEPS)
        raise ValueError(f"--sweep is {sweep!r}; write it as field=1,2,4 with a field of: {fields}") from error


def measured(
    model: str,
    data: Path,
    protocols: list[Protocol],
    tasks: list[str],
    samples: int | None,
    out: Path,
    field: str | None,
    place: torch.device,
) -> tuple[list[Result], list[Sample]]:
    """A result for each protocol, written to `out`, and what was made under the last one."""
    with working(f"loading {model}"):
        from diffusers.utils import logging as diffusers_logging
        from transformers.utils import logging as transformers_logging

        from versatile_diffusion.evaluation.baselines import find_subject
        from versatile_diffusion.evaluation.evaluate import evaluate as run

        diffusers_logging.disable_progress_bar()
        transformers_logging.disable_progress_bar()
        subject = find_subject(model, place)
    for protocol in protocols:
        subject.wanted(protocol, tasks)
    out.mkdir(parents=True, exist_ok=True)
    results: list[Result] = []
    made: list[Sample] = []
    for protocol in protocols:
        if field:
            note(f"{field} {protocol.plain()[field]}")
        if not protocol.judge:
            note("no judge is given (--judge), so only the encoders say what is recognised")
        result, made = run(subject, data, protocol, tasks, samples)
        result.save(out / (f"results-{field}-{protocol.plain()[field]}.json" if field else "results.json"))
        results.append(result)
    return results, made


def check_other(name: str, protocol: Protocol, tasks: list[str]) -> None:
    """Whether a model that is to be compared with can be, before anything is measured.

    Raises:
        ValueError: there is no such model, it has none of the tasks, or cannot be measured so.
    """
    from versatile_diffusion.evaluation.baselines import find_subject

    with working(f"looking at {name}"):
        subject = find_subject(name)
    shared = [task.name for task in subject.tasks if not tasks or task.name in tasks]
    if not shared:
        able = ", ".join(task.name for task in subject.tasks)
        raise ValueError(f"{name} can do none of the tasks to compare it in, {', '.join(tasks)}; it can: {able}")
    subject.wanted(protocol, shared)


def measured_alike(
    name: str, model: str, data: Path, result: Result, tasks: list[str], out: Path, place: torch.device
) -> Result:
    """Another model under the protocol of a result, by the same networks, on the tasks that both can do.

    Raises:
        ValueError: there is no such task.
    """
    from versatile_diffusion.evaluation.baselines import find_subject
    from versatile_diffusion.evaluation.evaluate import evaluate as run
    from versatile_diffusion.evaluation.protocol import OWN

    with working(f"loading {name}"):
        subject = find_subject(name, place)
    protocol = result.protocol
    if protocol.encoders == OWN:
        protocol = replace(protocol, encoders=model)
    ours = {way for table in result.tables.values() for way in table}
    shared = [task.name for task in subject.tasks if task.name in ours]
    if not shared:
        raise ValueError(f"{name} can do none of the tasks that {model} was measured on: {', '.join(tasks or ours)}")
    found, _ = run(subject, data, protocol, shared)
    found.save(out / f"results-{subject.name}.json")
    return found


def drawn(files: list[Path], along: str, out: Path, json: bool) -> None:
    """Plots of several results against a field of the protocol, or against a number that their models have."""
    from versatile_diffusion.evaluation.report import judge_table, page, plots
    from versatile_diffusion.evaluation.results import Result

    results = [Result.load(file) for file in files]
    body = "".join([judge_table(results[0]), *plots(results, along).values()])
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"against-{along}.html"
    file.write_text(page(f"Measured against {along}", body), encoding="utf-8")
    show_json({"file": str(file)}) if json else show(str(file))


def side_by_side(files: list[Path], json: bool) -> None:
    """The numbers of several results, refused where their protocols differ."""
    from versatile_diffusion.evaluation.results import Result, check_comparable

    results = [Result.load(file) for file in files]
    check_comparable(results)
    if json:
        return show_json([result.plain() for result in results])
    from rich.table import Table as RichTable

    show_judge(results[0])
    for split in results[0].tables:
        table = RichTable(split, *(result.model["name"] for result in results), box=None, pad_edge=False)
        rows = {(way, name): None for result in results for way, row in result.tables[split].items() for name in row}
        for way, name in rows:
            found: list[Any] = [result.tables[split].get(way, {}).get(name) for result in results]
            table.add_row(f"{way}: {name}", *("" if one is None else str(one) for one in found))
        stdout.print(table)


def show_judge(result: Result) -> None:
    """What the judge is worth; the same of all results that can be compared."""
    for split, accuracy in result.judge.items():
        show(f"judge on all real pictures of {split}: " + ", ".join(f"{n} {v:.1f} %" for n, v in accuracy.items()))


def show_tables(result: Result) -> None:
    """For people: a block per split, a line per way and kind of metric."""
    show_judge(result)
    for split, table in result.tables.items():
        show(f"\n{split}")
        for way in table:
            show(f"  {way}: {_line(table, way)}")


def _line(table: Table, way: str) -> str:
    return ", ".join(f"{name} {value.value:.3g}" for name, value in table[way].items())
