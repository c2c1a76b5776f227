"""Starting a run by the name of what is trained and of its settings."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from versatile_diffusion.training.loop import Outcome, train
from versatile_diffusion.training.settings import SETTINGS


def run(
    objective: str,
    settings: str,
    data: Path,
    out: Path,
    minutes: float | None = None,
    steps: int | None = None,
    seed: int | None = None,
    device: str | None = None,
) -> Outcome:
    """Trains `objective` with the named settings on `data` into `out`, or goes on where `out` stands.

    Args:
        objective: a key of `SETTINGS`, e.g. `"image-codec"`.
        settings: a key below it, e.g. `"emoji"`.
        minutes, steps, seed: in place of those of the settings.
        device: `"cpu"`, `"cuda"`, ...; the GPU where there is one.

    Raises:
        ValueError: unknown names, or `out` holds another run.
    """
    if objective not in SETTINGS:
        raise ValueError(f"objective is {objective!r}; allowed: {', '.join(SETTINGS)}")
    if settings not in SETTINGS[objective]:
        raise ValueError(f"settings of {objective} are {', '.join(SETTINGS[objective])}; got {settings!r}")
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    what, loop = SETTINGS[objective][settings](Path(data), Path(out), place)
    changes: dict[str, Any] = {"minutes": minutes, "steps": steps, "seed": seed}
    loop = replace(loop, **{name: value for name, value in changes.items() if value is not None})
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    resolved = {"objective": objective, "settings": settings, **what.settings(), "loop": asdict(loop)}
    (out / "settings.json").write_text(json.dumps(resolved, indent=2) + "\n")
    return train(what, loop, out)
