"""`versatile train`: one objective, started or gone on with."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    objective: Annotated[str, typer.Argument(help="image-codec, text-codec, context-encoders or diffuser.")],
    data: Annotated[Path, typer.Option(help="The data set, as `versatile data` builds it.")],
    out: Annotated[Path, typer.Option(help="The run's folder; a run that stands there goes on.")],
    settings: Annotated[str, typer.Option(help="Named settings of the objective.")] = "emoji",
    minutes: Annotated[float | None, typer.Option(help="Stop cleanly after this wall-clock time.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Length of the whole run.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of the weights and of every batch.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, ...; the GPU where there is one.")] = None,
) -> None:
    """Train a part of a model; the same command goes on where a run stopped."""
    if minutes is not None and minutes <= 0:
        raise ValueError(f"--minutes is {minutes}; it must be above 0")
    if not data.is_dir():
        raise ValueError(f"--data is {data}, where there is no folder; `versatile data emoji --out {data}` builds one")
    from versatile_diffusion.cli.console import show
    from versatile_diffusion.training.run import run

    show(str(run(objective, settings, data, out, minutes=minutes, steps=steps, seed=seed, device=device)))
