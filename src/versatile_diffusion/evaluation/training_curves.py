"""Plots of diffuser training losses over consecutive runs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from versatile_diffusion.evaluation.intervals import Measured
from versatile_diffusion.evaluation.plots import Point, line_plot
from versatile_diffusion.tasks import TASKS
from versatile_diffusion.training.diffuser.mixture import STAGES, Mixture
from versatile_diffusion.training.engine.checkpoints import Checkpoints
from versatile_diffusion.training.engine.tracking import LOG, read_log


@dataclass(frozen=True)
class Course:
    """Losses per flow over consecutive runs, and where each run after the first began."""

    losses: Mapping[str, Sequence[Point]]
    began: Sequence[float]


def course(runs: Sequence[Path], flows: Sequence[str] = STAGES["official"]) -> Course:
    """Return the held-out loss of each flow, of the EMA model, against thousands of items of all flows.

    Args:
        runs: folders of consecutive training runs.
        flows: flows to plot.

    Raises:
        ValueError: a folder without a diffuser run.
    """
    losses: dict[str, list[Point]] = {}
    ends = [0.0]
    for run in runs:
        each, steps = items_per_step(run) / 1000, 0
        for line in read_log(run / LOG):
            steps = max(steps, line["step"])
            for flow in flows:
                if (loss := line.get(f"eval/{flow}")) is not None:
                    point = ends[-1] + each * line["step"], Measured(loss, loss, loss, 1)
                    losses.setdefault(flow, []).append(point)
        ends.append(ends[-1] + each * steps)
    return Course(losses, ends[1:-1])


def flow_course(run: Path, flow: str) -> list[Point]:
    """Return the held-out loss of one flow, of the EMA model, against thousands of items of this flow.

    Raises:
        ValueError: a folder without a diffuser run.
    """
    told, batches = run_settings(run)
    mixture = _mixture(told)
    trained = [task.name for task in (mixture.tasks if mixture.joint else mixture.turns)]
    size, every = mixture.size(TASKS[flow]) * batches / 1000, 1 if mixture.joint else len(trained)
    points = []
    for line in read_log(run / LOG):
        if (loss := line.get(f"eval/{flow}")) is not None:
            rounds, rest = divmod(line["step"], every)
            steps = rounds * trained.count(flow) + trained[:rest].count(flow)
            points.append((size * steps, Measured(loss, loss, loss, 1)))
    return points


def items_per_step(run: Path) -> float:
    """Return the mean number of items per step, over the flows of a run.

    Raises:
        ValueError: a folder without a diffuser run.
    """
    told, batches = run_settings(run)
    mixture = _mixture(told)
    sizes = [mixture.items(step) for step in range(1 if mixture.joint else len(mixture.turns))]
    return batches * sum(sizes) / len(sizes)


def _mixture(told: Mapping[str, Any]) -> Mixture:
    shares = {name: told["mixture"][name] for name in told.get("flows") or STAGES[told["stage"]]}
    return Mixture({n: share for n, share in shares.items() if share}, told["batch"], told.get("joint", False))


def run_settings(run: Path) -> tuple[dict[str, Any], int]:
    """Return the settings of a run and the batches per step: from its newest checkpoint, else from its resolved
    settings.

    Raises:
        ValueError: a folder without a diffuser run.
    """
    told, batches = _identity(run)
    if told.get("objective") != "diffuser":
        raise ValueError(f"{run} contains no training run of the diffuser")
    return told, batches


def _identity(run: Path) -> tuple[dict[str, Any], int]:
    newest = Checkpoints(run).newest()
    if newest is not None:
        content = torch.load(newest, map_location="cpu", weights_only=True, mmap=True)
        return json.loads(content["identity"]), content.get("batches", 1)
    file = run / "settings.json"
    told = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    return told, told.get("started", {}).get("processes", 1) * told.get("loop", {}).get("accumulate", 1)


def main() -> None:
    """Plot the losses of diffuser training runs."""
    parser = argparse.ArgumentParser(
        prog="python -m versatile_diffusion.evaluation.training_curves", description=main.__doc__
    )
    parser.add_argument("runs", nargs="+", type=Path, help="run folders, in order")
    parser.add_argument("--flows", default=",".join(STAGES["official"]), help="comma-separated")
    parser.add_argument("--out", type=Path, required=True, help="output SVG file")
    given = parser.parse_args()
    found = course(given.runs, given.flows.split(","))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(
        line_plot(found.losses, "loss on held-out items", "thousands of items", found.began), encoding="utf-8"
    )


if __name__ == "__main__":
    main()
