"""The averaged model of a run as users load it, at any time: finished, stopped, or from a copy of a live one."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from versatile_diffusion.data.encoded import INDEX
from versatile_diffusion.training.checkpoints import Checkpoints
from versatile_diffusion.training.own_data import ENCODED
from versatile_diffusion.training.posthoc_ema import reconstruct
from versatile_diffusion.training.settings import named


def export(run: Path, to: Path | None = None, data: Path | None = None, ema: float | None = None) -> Path:
    """Writes what `from_pretrained` reads.

    Args:
        run: a run's folder.
        to: the folder to write; `export-STEP` in the run's folder if left out.
        data: the run's data set, where it has moved.
        ema: relative width of the average of the weights, for runs with `posthoc` averages; else the run's own average.

    Returns:
        The folder written.

    Raises:
        ValueError: there is no run, no whole checkpoint, or not what `ema` needs.
    """
    path = Checkpoints(run).newest()
    if path is None or not (run / "settings.json").is_file():
        raise ValueError(f"{run} holds no run with a checkpoint and settings.json; give a folder that training wrote")
    told = json.loads((run / "settings.json").read_text())
    encoded = run / ENCODED  # what the run encoded itself does not need its source any more
    found = encoded if (encoded / INDEX).is_file() else Path(told.get("started", {}).get("data", ""))
    data = data or found
    if data == Path() or not (data.exists() or any(data.parent.glob(data.name))):  # a pattern is allowed, too
        raise ValueError(f"the data set of {run} is not known or not there ({data}): give --data")
    build = named(told["objective"], told["settings"], told.get("options"))
    what, _ = build(data, run, torch.device("cpu"))
    content = torch.load(path, map_location="cpu", weights_only=True)
    with torch.random.fork_rng(devices=[]):
        module = what.build().requires_grad_(False).eval()
    module.load_state_dict(content["average"])
    if ema is not None:
        module.load_state_dict(reconstruct(run / "posthoc", ema))
    to = to or run / f"export-{content['step']:07d}"
    what.export(module, to)
    return to


def main() -> None:
    """Exports a run."""
    parser = argparse.ArgumentParser(prog="python -m versatile_diffusion.training.export", description=main.__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--to", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--ema", type=float)
    print(export(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
