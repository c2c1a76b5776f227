"""Export of a run's EMA model at any time: finished, stopped, or from a copy of a live run."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from versatile_diffusion.data.encoded import INDEX
from versatile_diffusion.files import write_whole_folder, writing
from versatile_diffusion.recipes.settings import find_settings
from versatile_diffusion.training.diffuser.own_data import ENCODED
from versatile_diffusion.training.engine.checkpoints import Checkpoints, still_there
from versatile_diffusion.training.engine.posthoc_ema import reconstruct
from versatile_diffusion.training.engine.sharded import average_at


def export(run: Path, to: Path | None = None, data: Path | None = None, ema: float | None = None) -> Path:
    """Export a run for `from_pretrained`.

    Args:
        run: the run's folder.
        to: output folder; default: `export-STEP` in the run's folder.
        data: the run's data set, if it has moved.
        ema: relative EMA width, for runs with `posthoc` averages; default: the run's own EMA.

    Returns:
        The output folder.

    Raises:
        ValueError: no run, no complete checkpoint, or missing averages for `ema`.
    """
    told = _read_settings(run / "settings.json") if (run / "settings.json").is_file() else None
    if told is not None and (place := (told.get("loop") or {}).get("checkpoints")):
        average, step = average_at(place)
    else:
        path = Checkpoints(run).newest()
        if path is None or told is None:
            raise ValueError(f"{run} contains no run with a checkpoint and settings.json; give a training run's folder")
        content = torch.load(path, map_location="cpu", weights_only=True)  # read now: a live run replaces it
        average, step = content["average"], content["step"]
    encoded = run / ENCODED  # data encoded by the run replaces its source
    found = encoded if (encoded / INDEX).is_file() else Path(told.get("started", {}).get("data", ""))
    data, streamed = data or found, bool((told.get("options") or {}).get("stream"))
    there = data != Path() and (data.exists() or any(data.parent.glob(data.name)))  # patterns are allowed
    if not streamed and not there:
        raise ValueError(f"the data set of {run} is unknown or missing ({data}); give --data")
    build = find_settings(told["objective"], told["settings"], told.get("options"))
    what, _ = build(None if streamed else data, run, torch.device("cpu"))
    with torch.random.fork_rng(devices=[]):
        module = what.build().requires_grad_(False).eval()
    module.load_state_dict(average)
    if ema is not None:
        module.load_state_dict(reconstruct(run / "posthoc", ema))
    to = to or run / f"export-{step:07d}"
    with writing(to, lambda: still_there(run)):
        to.parent.mkdir(parents=True, exist_ok=True)
        write_whole_folder(to, lambda new: what.export(module, new))
    return to


def _read_settings(file: Path) -> dict[str, Any]:
    try:
        told = json.loads(file.read_bytes())
        return {"objective": told["objective"], "settings": told["settings"], **told}
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{file} is damaged ({type(error).__name__}: {error}); run the training command again, which rewrites it"
        ) from error


def main() -> None:
    """Export a run."""
    parser = argparse.ArgumentParser(prog="python -m versatile_diffusion.recipes.export", description=main.__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--to", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--ema", type=float)
    print(export(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
