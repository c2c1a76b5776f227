"""`versatile evaluate`: evaluate a model under a fixed protocol."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from versatile_diffusion.cli.io.console import note, show, show_json, stdout, working
from versatile_diffusion.cli.options import Device, among, models, tasks
from versatile_diffusion.printable import shown

if TYPE_CHECKING:
    import torch

    from versatile_diffusion.evaluation.evaluate import WaySamples
    from versatile_diffusion.evaluation.items import HeldOut
    from versatile_diffusion.evaluation.protocol import Protocol
    from versatile_diffusion.evaluation.results import Result, Table
    from versatile_diffusion.evaluation.subjects import Subject

Trust = Annotated[bool, typer.Option("--trust-features", help="Run TorchScript files of --features (executes code).")]
SWEEPS = {"guidance_scale": float, "steps": int, "count": int, "candidates": int}


def evaluate(
    model: Annotated[
        str, typer.Option(help="Model or baseline: name, folder or hub id.", autocompletion=models)
    ] = "emoji",
    data: Annotated[Path | None, typer.Option(help="Held-out images with captions; emoji or speech set.")] = None,
    protocol: Annotated[
        str, typer.Option(help="quick, full, varied, or a JSON file.", autocompletion=among("protocol"))
    ] = "quick",
    judge: Annotated[str | None, typer.Option(help="Folder of the judge (image classifier).")] = None,
    encoders: Annotated[str | None, typer.Option(help="For CLIP scores: own, a model or a CLIP folder.")] = None,
    features: Annotated[list[str] | None, typer.Option(help="For FID etc.: judge, encoders, file or model.")] = None,
    trust_features: Trust = False,
    split: Annotated[list[str] | None, typer.Option(help="Data set splits to use.")] = None,
    encoding: Annotated[str | None, typer.Option(help="Encoding of the captions, if not UTF-8.")] = None,
    task: Annotated[list[str] | None, typer.Option(help="Evaluate only these tasks.", autocompletion=tasks)] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Items per split.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Sampling steps.")] = None,
    scheduler: Annotated[str | None, typer.Option(help="Sampler.", autocompletion=among("scheduler"))] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="For all tasks; default: the model's.")] = None,
    candidates: Annotated[int | None, typer.Option(min=1, help="Candidates per output (keeps the best match).")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="First random seed.")] = None,
    sweep: Annotated[str | None, typer.Option(help="Vary a setting: guidance_scale=1,2,4 or steps=5,10,20.")] = None,
    samples: Annotated[int | None, typer.Option(help="Training samples seen by the model, for plots.")] = None,
    against: Annotated[list[str] | None, typer.Option(help="Other models to evaluate and compare.")] = None,
    page: Annotated[Path | None, typer.Option(help="Also write a Markdown page (images in images/).")] = None,
    compare: Annotated[list[Path] | None, typer.Option(help="Compare these results instead of evaluating.")] = None,
    along: Annotated[str | None, typer.Option(help="With --compare: plot against samples, steps, ...")] = None,
    out: Annotated[Path, typer.Option(help="Folder for results.json, report.html and sheets.")] = Path("evaluation"),
    device: Device = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Evaluate a model on held-out items, or compare results measured under one protocol."""
    if compare:
        return plot_against(compare, along, out, json) if along else side_by_side(compare, json)
    if data is None:
        raise ValueError("--data is required: held-out images with captions, or the emoji set")
    from versatile_diffusion.evaluation.markdown import write_page
    from versatile_diffusion.evaluation.report import write_report  # needs the extra `eval`: said before hours of work

    held_out = open_data(data, encoding)
    changes: dict[str, Any] = {
        "judge": judge, "encoders": encoders, "features": features, "splits": split, "count": count, "steps": steps,
        "scheduler": scheduler, "guidance_scale": guidance_scale, "candidates": candidates, "seed": seed,
    }  # fmt: skip
    asked = protocol_with(protocol, changes, trust_features)
    field, protocols = setting = parse_sweep(asked, sweep)
    place = device_of(device)
    rivals = load_rivals(against or [], protocols[-1], task or [])
    results, made = measure(model, held_out, setting, task or [], samples, out, place, trust_features)
    others = [
        evaluate_rival(one, model, held_out, results[-1], task or [], out, place, trust_features) for one in rivals
    ]
    write_report(out, results, made, field, others)
    if page is not None:
        write_page(page, results, made, others, field)
    if json:
        show_json([result.plain() for result in results] if field else results[-1].plain())
    else:
        show_tables(results[-1])
    note(f"{out / 'results.json'} contains the metrics; {out / 'report.html'} shows them with samples")


def open_data(data: Path, encoding: str | None) -> HeldOut:
    """Open the evaluation set; report what was skipped."""
    from versatile_diffusion.evaluation.own_data import OwnHeldOut
    from versatile_diffusion.recipes.held_out import open_held_out

    with working(f"reading {data}"):
        found = open_held_out(data, encoding)
    if isinstance(found, OwnHeldOut) and (found.report.bad or found.report.left_out):
        note(str(found.report))
    return found


def protocol_with(name: str, changes: dict[str, Any], trust_features: bool) -> Protocol:
    """Read a protocol and override the fields that are not None.

    Raises:
        ValueError: an unknown protocol, networks that would be downloaded because its file names them, or untrusted
            programs.
    """
    from versatile_diffusion.evaluation.networks import check_trusted
    from versatile_diffusion.evaluation.protocol import Protocol

    given = {field: value for field, value in changes.items() if value is not None}
    protocol = replace(Protocol.read(name), **given)
    protocol.check_here([given.get("judge", ""), given.get("encoders", ""), *given.get("features", ())])
    check_trusted(protocol, trust_features)
    return protocol


def device_of(device: str | None) -> torch.device:
    """Return the device of that name, by default the GPU if available; ValueError if there is none."""
    import torch

    from versatile_diffusion.cli.io.model import find_device

    return torch.device(find_device(device))


def parse_sweep(protocol: Protocol, sweep: str | None) -> tuple[str | None, list[Protocol]]:
    """Parse a sweep into its field and one protocol per value.

    Raises:
        ValueError: not of the form `field=value,value,...`.
    """
    if sweep is None:
        return None, [protocol]
    field, _, values = sweep.partition("=")
    try:
        kind = SWEEPS[field]
        return field, [replace(protocol, **{field: kind(value)}) for value in values.split(",")]
    except (KeyError, ValueError) as error:
        fields = ", ".join(SWEEPS)
        raise ValueError(f"--sweep is {shown(sweep)}; it must be field=1,2,4 with a field of: {fields}") from error


def measure(
    model: str,
    data: HeldOut,
    setting: tuple[str | None, list[Protocol]],
    tasks: list[str],
    samples: int | None,
    out: Path,
    place: torch.device,
    trust_features: bool = False,
) -> tuple[list[Result], list[WaySamples]]:
    """Evaluate under each protocol of a sweep; return the results, written to `out`, and the samples of the last."""
    field, protocols = setting
    with working(f"loading {model}"):
        from diffusers.utils import logging as diffusers_logging
        from transformers.utils import logging as transformers_logging

        from versatile_diffusion.evaluation.baselines import find_subject
        from versatile_diffusion.evaluation.evaluate import evaluate as run
        from versatile_diffusion.evaluation.results import remarks

        diffusers_logging.disable_progress_bar()
        transformers_logging.disable_progress_bar()
        subject = find_subject(model, place)
    for protocol in protocols:
        subject.wanted(protocol, tasks)
        protocol.on(data.splits, data.parts)
    out.mkdir(parents=True, exist_ok=True)
    results: list[Result] = []
    made: list[WaySamples] = []
    for protocol in protocols:
        if field:
            note(f"{field} {protocol.plain()[field]}")
        if data.labelled and not protocol.judge:
            note("no --judge given; recognition is measured by the encoders only")
        result, made = run(subject, data, protocol, tasks, samples, trust_features)
        for said in remarks(result):
            note(said)
        result.save(out / (f"results-{field}-{protocol.plain()[field]}.json" if field else "results.json"))
        results.append(result)
    return results, made


def load_rivals(names: list[str], protocol: Protocol, tasks: list[str]) -> list[Subject]:
    """Load the models to compare with, each once; equal names get the start of their hash appended."""
    subjects = [rival(name, protocol, tasks) for name in dict.fromkeys(names)]
    called = [subject.name for subject in subjects]
    for subject in subjects:
        if called.count(subject.name) > 1:
            subject.name = f"{subject.name}-{subject.hash[:6]}"
    return subjects


def rival(name: str, protocol: Protocol, tasks: list[str]) -> Subject:
    """Load a model to compare with, on the CPU; checked before anything is measured.

    Raises:
        ValueError: an unknown model, no common task, or a protocol it does not support.
    """
    from versatile_diffusion.evaluation.baselines import find_subject

    with working(f"loading {name}"):
        subject = find_subject(name)
    shared = [task.name for task in subject.tasks if not tasks or task.name in tasks]
    if not shared:
        able = ", ".join(task.name for task in subject.tasks)
        raise ValueError(f"{name} supports none of the compared tasks, {', '.join(tasks)}; it supports: {able}")
    subject.wanted(protocol, shared)
    return subject


def evaluate_rival(
    subject: Subject,
    model: str,
    data: HeldOut,
    result: Result,
    tasks: list[str],
    out: Path,
    place: torch.device,
    trust_features: bool = False,
) -> tuple[Result, list[WaySamples]]:
    """Evaluate another model under the protocol of a result, with the same networks, on the common tasks; return the
    result and the samples.

    Raises:
        ValueError: no common task.
    """
    import torch

    from versatile_diffusion.evaluation.evaluate import evaluate as run
    from versatile_diffusion.evaluation.protocol import OWN

    protocol = result.protocol
    if protocol.encoders == OWN:
        protocol = replace(protocol, encoders=model)
    ours = {way for table in result.tables.values() for way in table}
    shared = [task.name for task in subject.tasks if task.name in ours]
    if not shared:
        raise ValueError(
            f"{subject.name} supports none of the tasks that {model} was measured on: {', '.join(tasks or ours)}"
        )
    subject.to(place)
    found, made = run(subject, data, protocol, shared, trust_features=trust_features)
    subject.to(torch.device("cpu"))
    found.save(out / f"results-{subject.name}.json")
    return found, made


def plot_against(files: list[Path], along: str, out: Path, json: bool) -> None:
    """Plot several results against a protocol field, or against a number stored with their models."""
    from versatile_diffusion.evaluation.report import judge_table, page, plots
    from versatile_diffusion.evaluation.results import Result

    results = [Result.load(file) for file in files]
    body = "".join([judge_table(results[0]), *plots(results, along).values()])
    out.mkdir(parents=True, exist_ok=True)
    file = out / f"against-{along}.html"
    file.write_text(page(f"Measured against {along}", body), encoding="utf-8")
    show_json({"file": str(file)}) if json else show(str(file))


def side_by_side(files: list[Path], json: bool) -> None:
    """Print several results side by side; ValueError if their protocols differ."""
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
    """Print the judge's accuracy, which is equal in all comparable results."""
    for split, accuracy in result.judge.items():
        show(f"judge on all real images of {split}: " + ", ".join(f"{n} {v:.1f} %" for n, v in accuracy.items()))


def show_tables(result: Result) -> None:
    """Print a block per split with a line per task and kind of metric."""
    show_judge(result)
    for split, table in result.tables.items():
        show("")
        show(f"{split}")
        for way in table:
            show(f"  {way}: {_line(table, way)}")


def _line(table: Table, way: str) -> str:
    return ", ".join(f"{name} {value.brief}" for name, value in table[way].items())
