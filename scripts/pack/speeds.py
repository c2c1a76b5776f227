"""Steps a second by batch size, compiled or not: a line of JSON each, the largest last."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import torch

from versatile_diffusion.recipes.emoji import diffuser as emoji
from versatile_diffusion.training.diffuser.objective import DiffuserObjective

STEPS = 12


def speed(what: DiffuserObjective, compiled: bool) -> dict[str, float]:
    """Of one kind of step: after its first, which is told apart."""
    device = what.device
    module = what.build().to(device)
    optimizers = what.optimizers(module)
    if compiled:
        module.compile()
    began, times = time.perf_counter(), []
    for step in range(STEPS):
        for piece in what.pieces(what.batch(step, torch.Generator(device).manual_seed(step))):
            with torch.autocast(device.type, dtype=torch.bfloat16, enabled=device.type == "cuda"):
                loss, _ = what.loss(module, piece)
            loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter())
    seconds = (times[-1] - times[0]) / (STEPS - 1)
    return {"first": round(times[0] - began, 2), "step": round(seconds, 4), "items": round(what.items(0) / seconds, 1)}


def main() -> None:
    """Measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sizes = (0.25, 0.5, 1, 2, 4) if device.type == "cuda" else (0.01, 0.02)
    what = emoji.second_objective(emoji.BIG, given.data, given.work / "run", device, fresh=True)
    for size in sizes:
        batch = {name: max(1, round(size * count)) for name, count in emoji.BIG.batch.items()}
        sized = replace(what, options=replace(what.options, batch=batch))
        for compiled in (False, True) if device.type == "cuda" else (False,):
            try:
                told = speed(sized, compiled)
            except torch.cuda.OutOfMemoryError:
                told = {"memory": 0.0}
            print(json.dumps({"batch": batch, "compiled": compiled, **told}), flush=True)


if __name__ == "__main__":
    main()
