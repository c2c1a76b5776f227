"""`versatile train`: one objective, started or gone on with, in one process or several."""

from __future__ import annotations

import os
import re
import shlex
import sys
from dataclasses import asdict
from inspect import Parameter, Signature
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

import typer

from versatile_diffusion.cli.io.console import note, note_lines, show, show_json
from versatile_diffusion.cli.verbs.train_options import OBJECTIVES, TrainOptions
from versatile_diffusion.printable import shown
from versatile_diffusion.shipped import INDEX

if TYPE_CHECKING:
    from versatile_diffusion.training.engine.loop import Outcome

PLAIN = ("data", "out", "device", "timeout")
"""Options that `run` takes as they are."""
ENGINE = (
    *("minutes", "steps", "end", "by_clock", "seed", "warmup", "accumulate", "clip", "keep", "posthoc", "wandb"),
    "checkpoints",
    *("parallel", "bf16", "compile", "activation_checkpointing"),
    *("checkpoint_minutes", "eval_minutes", "sample_minutes", "export_minutes"),
)
"""Options that are fields of `LoopSettings`."""
OWN = ("flows", "only", "lora", "lr", "batch", "aspect", "encoding", "stream", "window", "warm_start", "phase")
"""Options of `own_data`."""
DISTILL = {"distill_steps": "steps", "method": "method"}
"""Options that go with --distill, and the fields of `DistillSettings` that they are."""
LISTS = ("flows", "only")
"""Those of words with commas between."""
PAPER = ("basic", "dual-context", "official")
"""The paper's settings."""
MACHINE = ("gpus", "per_node", "tflops", "mfu")
"""Options that go with --plan."""


def train(context: typer.Context, **given: Any) -> None:
    """Train a part of a model; the same command resumes an interrupted run.

    SIGTERM and Ctrl-C stop it cleanly, with a checkpoint. The run's folder receives settings.json, log.jsonl,
    tensorboard/, samples/, checkpoints/ and, at the end, export/ with what from_pretrained reads. Without --out it is
    runs/MODEL-DATA, by --from and --data, or as in scripts/train_emoji.sh; the command says so first.
    """
    given, json = context.params, bool(given["json"])
    if given["export"] is not None:
        where = given["export"], given["to"], given["data"], given["ema"]
        return _export(*where, force=bool(given["force"]), json=json)
    if given["plan"] or any(given[name] is not None for name in MACHINE):
        return _plan(given, json)
    _check(given)
    if given["out"] is None:
        given["out"] = _out(given)
        if _first():
            note(f"the run's folder is {given['out']}; --out names another")
    if given["nproc"] > 1 and given["ray"] is None:
        raise typer.Exit(_several(given, given["nproc"]))
    _tell(_run(given), given["out"], json)


HINTS = get_type_hints(TrainOptions, include_extras=True)
train.__annotations__ = {"context": typer.Context, **HINTS}
train.__signature__ = Signature(  # type: ignore[attr-defined]
    [
        Parameter("context", Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context),
        *(
            Parameter(n, Parameter.KEYWORD_ONLY, default=getattr(TrainOptions, n), annotation=h)
            for n, h in HINTS.items()
        ),
    ]
)


def _plan(given: dict[str, Any], json: bool) -> None:
    """What one of the paper's trainings takes."""
    from versatile_diffusion.choices import unknown
    from versatile_diffusion.training.diffuser import paper
    from versatile_diffusion.training.diffuser.plan import Machine, TrainingPlan

    if not given["plan"]:
        raise ValueError(f"--{', --'.join(MACHINE).replace('_', '-')} go with --plan")
    if given["settings"] not in paper.PAPER:
        raise ValueError(unknown("settings of the paper", given["settings"], paper.PAPER))
    machine = Machine(**{name: given[name] for name in MACHINE if given[name] is not None})
    plan = TrainingPlan(paper.PAPER[given["settings"]], machine)
    if json:
        return show_json(plan.to_json())
    for line in str(plan).splitlines():
        show(line)


def _export(run: Path, to: Path | None, data: Path | None, ema: float | None, *, force: bool, json: bool) -> None:
    """Exports a run as it stands; over an earlier export with `force` alone."""
    if to is not None and (to / INDEX).is_file() and not force:
        raise ValueError(f"{to} holds a model already; give --force to write over it, or another --to than for {run}")
    from versatile_diffusion.recipes.export import export

    exported = str(export(run, to, data, ema))
    show_json({"export": exported}) if json else show(exported)


def _run(given: dict[str, Any]) -> Outcome:
    """The training in this process."""
    changes, options = _settings(given)
    objective, settings = given["objective"], given["settings"]
    if objective is None:
        objective, settings = "own-data", _start(given)
    plain = {name: given[name] for name in PLAIN} | {"changes": changes, "options": options}
    from versatile_diffusion.recipes.run import run

    try:
        if given["ray"] is not None:
            from versatile_diffusion.recipes.cluster import Group, run_on_ray

            group = Group(given["ray"], given["nodes"] or 1, given["nproc"])
            return run_on_ray({"objective": objective, "settings": settings, **plain}, group, note)
        return run(objective, settings, **plain, tell=note_lines)
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
    if given["to"] is not None or given["ema"] is not None or given["force"]:
        raise ValueError("--to, --ema and --force go with --export RUN")
    if given["start"] and given["distill"]:
        raise ValueError("--from trains a model further and --distill distils one; give one of them")
    if not given["distill"] and (own := [name for name in DISTILL if given[name] is not None]):
        raise ValueError(f"--{own[0].replace('_', '-')} goes with --distill")
    start, data = _start(given), given["data"]
    what = given["objective"] or start
    own = [name for name in (*OWN, "config") if given[name]]
    if own and not start:
        raise ValueError(f"--{own[0].replace('_', '-')} goes with --from or --distill")
    if not what or (data is None and not given["stream"]):
        raise ValueError(
            "give what to train (or the model that goes on, with --from, or is distilled, with --distill) and --data; "
            f"or --export RUN. What is trained: {OBJECTIVES}"
        )
    spacings = [name for name in ENGINE if name.endswith("_minutes")]
    for name in ("minutes", "by_clock", *spacings, "timeout"):
        if given[name] is not None and given[name] <= 0:
            raise ValueError(f"--{name.replace('_', '-')} is {given[name]}; it must be above 0")
    if given["nodes"] is not None and given["ray"] is None:
        raise ValueError("--nodes goes with --ray; or start torchrun on each node")
    if data is not None and not data.is_dir() and start is None:
        raise ValueError(f"--data is {data}, where there is no folder; `versatile data emoji --out {data}` builds one")


def _settings(given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Fields of `LoopSettings` and options of `own_data`: those of the file, and over them those that were given."""
    changes = {name: given[name] for name in ENGINE if given[name] is not None}
    if given["posthoc"] is not None:
        changes["posthoc"] = _widths(given["posthoc"])
    options = _options(given)
    if given["config"] is not None:
        from versatile_diffusion.training.engine.config_file import read_config

        told = read_config(given["config"])
        changes = {**told.loop, **changes}
        options |= {"config": dict(told.diffuser)} if told.diffuser else {}
    return changes, options


def _out(given: dict[str, Any]) -> Path:
    """Return the default folder of a run: named by the model and the data; or as in `scripts/train_emoji.sh`, so that
    parts find the runs that they start from beside them."""
    if start := _start(given):
        model = Path(start).absolute()
        while model.name.startswith("export"):  # in a run's folder, which has the name
            model = model.parent
        data = given["data"] or Path(given["stream"][0].rpartition("@")[0] or given["stream"][0])
        name = f"{_words(model)}-{_words(data.absolute())}"
        return Path("runs", f"{name}-distilled" if given.get("distill") else name)
    root, _, variant = given["settings"].partition("-")
    if given["objective"] == "diffuser":
        variant = variant or "official"  # its plain settings are those of the last stage
    return Path("runs", root, "-".join(filter(None, (given["objective"], variant))))


def _start(given: dict[str, Any]) -> Any:
    """The model that a run begins with."""
    return given["start"] or given.get("distill")


def _words(path: Path) -> str:
    return "-".join(re.findall(r"\w+", path.name)) or "mine"


def _several(given: dict[str, Any], count: int) -> int:
    """The same command in `count` processes; returns its exit code."""
    from versatile_diffusion.training.engine.launch import launch

    words = [given["objective"]] if given["objective"] else []
    for name, value in given.items():
        option = "from" if name == "start" else name.replace("_", "-")
        if isinstance(value, bool):
            words.append(f"--{option}" if value else f"--no-{option}")
        elif value is not None and name not in ("objective", "nproc"):
            several = value if isinstance(value, list | tuple) else [value]
            words += [word for one in several for word in (f"--{option}", str(one))]
    return launch([sys.executable, "-m", "versatile_diffusion.train", *words], count)


def _options(given: dict[str, Any]) -> dict[str, Any]:
    """Those of `own_data` that were given."""
    found = {name: given[name] for name in OWN if given[name]}
    if given["distill"]:
        found["distill"] = {field: given[name] for name, field in DISTILL.items() if given[name] is not None}
    if given["start"] and given["settings"] in PAPER:
        found["paper"] = given["settings"]
    return {name: value.split(",") if name in LISTS else value for name, value in found.items()}


def _widths(told: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in told.split(","))
    except ValueError:
        raise ValueError(
            f"--posthoc is {shown(told)}; it must be numbers with commas between, such as 0.05,0.1"
        ) from None
