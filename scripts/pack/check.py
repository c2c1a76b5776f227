"""The losses of the first 50 steps, with batches that are drawn on the CPU: the same numbers on every machine.

check.py --data DATA --record FILE     on the machine that packs: writes the CPU's
check.py --data DATA --against FILE    on the other: compares, and measures the work of a step
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from versatile_diffusion.recipes.emoji import diffuser as emoji
from versatile_diffusion.training.diffuser.batch import Batch
from versatile_diffusion.training.diffuser.objective import DiffuserObjective

STEPS, ITEMS, DRAWINGS = 50, 8, 96
OF_A_DRAWING = ("keys", "pictures", "captions", "labels", "colours", "concepts", "styles", "no_sibling")
EARLY, LATE, HALF = 1e-3, 2e-2, 5e-2
"""How far a loss may be from the CPU's, relative: in the first ten steps, in all (rounding grows), with bfloat16."""


def objective(data: Path, out: Path) -> DiffuserObjective:
    """The run's objective on the CPU, with small batches and few drawings."""
    whole = emoji.EmojiSet.load

    def few(folder: Path, split: str) -> Any:
        items = whole(folder, split)
        return replace(items, **{name: getattr(items, name)[:DRAWINGS] for name in OF_A_DRAWING})

    emoji.EmojiSet.load = few  # type: ignore[method-assign]
    options = replace(emoji.BIG, batch={"image": ITEMS, "text": ITEMS})
    return emoji.second_objective(options, data, out, torch.device("cpu"), fresh=True)


def moved(batch: Batch, device: torch.device) -> Batch:
    """The batch on another device."""
    contexts = tuple(replace(context, tokens=context.tokens.to(device)) for context in batch.contexts)
    tensors = {name: getattr(batch, name).to(device) for name in ("latent", "noise", "timestep")}
    return replace(batch, contexts=contexts, **tensors)


def losses(what: DiffuserObjective, device: torch.device, bf16: bool) -> list[float]:
    """Of every step, before its update."""
    torch.manual_seed(0)
    module = what.build().to(device)
    optimizers = what.optimizers(module)
    found = []
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(step)
        batch = [moved(one, device) for one in what.batch(step, generator)]
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=bf16):
            loss, _ = what.loss(module, batch)
        loss.backward()
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group.setdefault("initial_lr", group["lr"]) * min(1.0, (step + 1) / STEPS)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        found.append(float(loss.detach()))
    return found


def work(what: DiffuserObjective) -> dict[str, float]:
    """Floating point operations for one item of each flow, forward and backward."""
    module = what.build()
    found = {}
    for one in what.batch(0, torch.Generator().manual_seed(0)):
        with FlopCounterMode(display=False) as counter:
            what.loss(module, [one])[0].backward()
        found[one.task.name] = counter.get_total_flops() / ITEMS
    return found


def worst(one: list[float], other: list[float]) -> float:
    return max(abs(a - b) / abs(b) for a, b in zip(one, other, strict=True))


def main() -> None:
    """Records or compares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--record", type=Path)
    parser.add_argument("--against", type=Path)
    given = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    with tempfile.TemporaryDirectory() as folder:
        what = objective(given.data, Path(folder))
    if given.record:
        told = {"losses": losses(what, torch.device("cpu"), False), "flops": work(what)}
        given.record.write_text(json.dumps(told))
        return
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    ours: dict[str, Any] = json.loads(given.against.read_text())
    found = {str(bf16): losses(what, device, bf16) for bf16 in (False, True)}
    differ = {
        "float32, first ten": (worst(found["False"][:10], ours["losses"][:10]), EARLY),
        "float32, all": (worst(found["False"], ours["losses"]), LATE),
        "bfloat16, all": (worst(found["True"], ours["losses"]), HALF),
    }
    print(json.dumps({"device": str(device), "differ": differ, "flops": ours["flops"]}))
    if wrong := [f"{name} {by:.2g} (at most {most})" for name, (by, most) in differ.items() if by > most]:
        sys.exit(f"error: the first {STEPS} steps differ from the CPU's: {', '.join(wrong)}")


if __name__ == "__main__":
    main()
