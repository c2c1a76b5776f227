"""`versatile train`: one objective, started or gone on with, in one process or several."""

from __future__ import annotations

import os
import re
import shlex
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from versatile_diffusion.cli.console import note, show, show_json
from versatile_diffusion.cli.options import Device, among, models, tasks

if TYPE_CHECKING:
    from versatile_diffusion.training.loop import Outcome

OBJECTIVES = "image-codec, text-codec, context-encoders, image-context, judge or diffuser."
PLAIN = ("data", "out", "device", "timeout")
"""Options that `run` takes as they are."""
ENGINE = (
    *("minutes", "steps", "seed", "warmup", "accumulate", "clip", "keep", "posthoc", "wandb"),
    *("parallel", "bf16", "compile", "activation_checkpointing"),
    *("checkpoint_minutes", "eval_minutes", "sample_minutes"),
)
"""Options that are fields of `LoopSettings`."""
OWN = ("flows", "only", "lora", "lr", "batch", "aspect")
"""Options of `own_data`."""

Start = Annotated[
    str | None, typer.Option("--from", help="Go on with this model, on your own --data.", autocompletion=models)
]
Flows = Annotated[
    str | None, typer.Option(help="With --from: flows, such as text-to-image; else all.", autocompletion=tasks)
]
Parallel = Annotated[
    str | None,
    typer.Option(help="Each process has the model (ddp) or a shard (fsdp).", autocompletion=among("parallel")),
]


def train(
    context: typer.Context,
    objective: Annotated[str | None, typer.Argument(help=OBJECTIVES, autocompletion=among("objective"))] = None,
    data: Annotated[Path | None, typer.Option(help="A set of `versatile data`; with --from, your own.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder; a run there goes on. Else one in runs/.")] = None,
    settings: Annotated[str, typer.Option(help="Named settings of the objective.")] = "emoji",
    minutes: Annotated[float | None, typer.Option(help="Stop cleanly after this wall-clock time.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Length of the whole run.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the weights and of every batch.")] = None,
    device: Device = None,
    start: Start = None,
    flows: Flows = None,
    only: Annotated[str | None, typer.Option(help="With --from: groups or streams, such as context,data.text.")] = None,
    lora: Annotated[int | None, typer.Option(min=1, help="With --from: train adapters of this rank instead.")] = None,
    lr: Annotated[float | None, typer.Option(help="With --from: learning rate.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="With --from: items per step of each flow.")] = None,
    config: Annotated[Path | None, typer.Option(help="With --from: a JSON file of settings; options win.")] = None,
    aspect: Annotated[float | None, typer.Option(help="With --from: keep pictures' shapes, up to this : 1.")] = None,
    nproc: Annotated[int, typer.Option(min=1, help="Processes on this machine; or start with torchrun.")] = 1,
    parallel: Parallel = None,
    accumulate: Annotated[int | None, typer.Option(min=1, help="Batches of each process per step.")] = None,
    clip: Annotated[float | None, typer.Option(help="Largest norm of the gradients.")] = None,
    bf16: Annotated[bool | None, typer.Option(help="bfloat16 where it is safe; on a GPU by default.")] = None,
    compile: Annotated[str | None, typer.Option(help="Backend of torch.compile, such as inductor.")] = None,
    activation_checkpointing: Annotated[bool | None, typer.Option(help="Less memory, a third slower.")] = None,
    keep: Annotated[int | None, typer.Option(min=1, help="Checkpoints that stay.")] = None,
    checkpoint_minutes: Annotated[float | None, typer.Option(help="Minutes between checkpoints.")] = None,
    eval_minutes: Annotated[float | None, typer.Option(help="Minutes between measurements on held-out data.")] = None,
    sample_minutes: Annotated[float | None, typer.Option(help="Minutes between sheets of samples.")] = None,
    warmup: Annotated[int | None, typer.Option(min=0, help="Steps in which the learning rate rises.")] = None,
    posthoc: Annotated[str | None, typer.Option(help="Widths of averages to store, such as 0.05,0.1.")] = None,
    wandb: Annotated[bool | None, typer.Option(help="Log to Weights & Biases too, offline by default.")] = None,
    timeout: Annotated[float, typer.Option(help="Minutes until a silent process counts as dead.")] = 30.0,
    export: Annotated[Path | None, typer.Option(help="Train nothing: export this run as it stands.")] = None,
    to: Annotated[Path | None, typer.Option(help="With --export: the folder to write.")] = None,
    ema: Annotated[float | None, typer.Option(help="With --export: relative width of the average.")] = None,
    json: Annotated[bool | None, typer.Option("--json", help="Print the result as JSON.")] = None,
) -> None:
    """Train a part of a model; the same command goes on where a run stopped.

    SIGTERM and Ctrl-C stop it cleanly, with a checkpoint. The run's folder receives settings.json, log.jsonl,
    tensorboard/, samples/, checkpoints/ and, at the end, export/ with what from_pretrained reads. Without --out it is
    runs/MODEL-DATA, by the names of --from and --data, or else the one that scripts/train_emoji.sh takes, such as
    runs/emoji/diffuser-official; the command says so first.
    """
    if export is not None:
        from versatile_diffusion.training.export import export as export_run

        exported = str(export_run(export, to, data, ema))
        return show_json({"export": exported}) if json else show(exported)
    given = context.params
    _check(given)
    if out is None:
        given["out"] = _out(given)
        if _first():
            note(f"the run's folder is {given['out']}; --out names another")
    if nproc > 1:
        raise typer.Exit(_several(given, nproc))
    _tell(_run(given), given["out"], bool(json))


def _run(given: dict[str, Any]) -> Outcome:
    """The training in this process."""
    changes, options = _settings(given)
    objective, settings = given["objective"] or "own-data", given["settings"] if given["objective"] else given["start"]
    plain = {name: given[name] for name in PLAIN}
    from versatile_diffusion.training.run import run

    try:
        return run(objective, settings, **plain, changes=changes, options=options, tell=note)
    except FloatingPointError as error:
        raise ValueError(str(error)) from error


def _first() -> bool:
    """Whether this is the only process, or the one of several that speaks."""
    return os.environ.get("RANK", "0") == "0"


def _tell(outcome: Outcome, out: Path, json: bool) -> None:
    """Where the run stands."""
    if not _first():
        return None
    if json:
        return show_json({"out": str(out), **asdict(outcome)})
    show(" ".join(f"{name}={value:.4g}" for name, value in outcome.metrics.items()) or "no metrics yet")
    left = f"finished; {out / 'export'} can be loaded"
    if not outcome.finished:
        export = shlex.join(["versatile", "train", "--export", str(out), "--to", "my-model"])
        left = f"stopped; the same command goes on, and `{export}` makes a model of it as it stands"
    show(f"{out}: step {outcome.step}, {left}")


def _check(given: dict[str, Any]) -> None:
    """Raises ValueError where what is given does not go together; before anything long."""
    if given["to"] is not None or given["ema"] is not None:
        raise ValueError("--to and --ema go with --export RUN")
    start, data = given["start"], given["data"]
    what = given["objective"] or start
    own = [name for name in (*OWN, "config") if given[name] is not None]
    if not what or data is None or (own and not start):
        raise ValueError(
            f"give what to train (or the model that goes on, with --from) and --data; or --export RUN. "
            f"--{', --'.join((*OWN, 'config'))} go with --from. What is trained: {OBJECTIVES}"
        )
    for name in ("minutes", "checkpoint_minutes", "eval_minutes", "sample_minutes", "timeout"):
        if given[name] is not None and given[name] <= 0:
            raise ValueError(f"--{name.replace('_', '-')} is {given[name]}; it must be above 0")
    if not data.is_dir() and start is None:
        raise ValueError(f"--data is {data}, where there is no folder; `versatile data emoji --out {data}` builds one")


def _settings(given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fields of `LoopSettings` and options of `own_data`: those of the file, and over them those that were given."""
    changes = {name: given[name] for name in ENGINE if given[name] is not None}
    if given["posthoc"] is not None:
        changes["posthoc"] = _widths(given["posthoc"])
    options = _options(given)
    if given["config"] is not None:
        from versatile_diffusion.training.config_file import read_config

        told = read_config(given["config"])
        changes = {**told.loop, **changes}
        options |= {"config": dict(told.diffuser)} if told.diffuser else {}
    return changes, options


def _out(given: dict[str, Any]) -> Path:
    """Where a run goes that was given no folder: by the names of the model and of the pictures' folder; or as
    `scripts/train_emoji.sh` has them, so that parts find those that they start from beside them."""
    if given["start"]:
        model = Path(given["start"]).absolute()
        while model.name.startswith("export"):  # in a run's folder, which has the name
            model = model.parent
        return Path("runs", f"{_words(model)}-{_words(given['data'].absolute())}")
    root, _, variant = given["settings"].partition("-")
    if given["objective"] == "diffuser":
        variant = variant or "official"  # its plain settings are those of the last stage
    return Path("runs", root, "-".join(filter(None, (given["objective"], variant))))


def _words(path: Path) -> str:
    return "-".join(re.findall(r"\w+", path.name)) or "mine"


def _several(given: dict[str, Any], count: int) -> int:
    """The same command in `count` processes; returns its exit code."""
    from versatile_diffusion.training.launch import launch

    words = [given["objective"]] if given["objective"] else []
    for name, value in given.items():
        option = "from" if name == "start" else name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        elif value is not None and name not in ("objective", "nproc"):
            words += [f"--{option}", str(value)]
    return launch([sys.executable, "-m", "versatile_diffusion.train", *words], count)


def _options(given: dict[str, Any]) -> dict[str, Any]:
    """Those of `own_data` that were given; lists from words with commas between."""
    found = {name: given[name] for name in OWN if given[name] is not None}
    return {name: value.split(",") if isinstance(value, str) else value for name, value in found.items()}


def _widths(told: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in told.split(","))
    except ValueError:
        raise ValueError(f"--posthoc is {told!r}; it must be numbers with commas between, such as 0.05,0.1") from None
