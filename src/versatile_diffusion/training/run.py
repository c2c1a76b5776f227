"""Starting a run by the name of what is trained and of its settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from versatile_diffusion.data.disk import write_whole, writing
from versatile_diffusion.training.checkpoints import still_there
from versatile_diffusion.training.config import LoopSettings
from versatile_diffusion.training.distributed import World, joined, place
from versatile_diffusion.training.loop import Objective, Outcome, train
from versatile_diffusion.training.settings import named


def run(
    objective: str,
    settings: str,
    data: Path,
    out: Path,
    minutes: float | None = None,
    steps: int | None = None,
    seed: int | None = None,
    device: str | None = None,
    changes: Mapping[str, Any] | None = None,
    timeout: float = 30.0,
    tell: Callable[[str], None] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Outcome:
    """Trains `objective` with the named settings on `data` into `out`, or goes on where `out` stands.

    Under `torchrun` and the like, every process calls this alike. `out` also receives `settings.json`.

    Args:
        objective: a key of `SETTINGS`, e.g. `"image-codec"`; or `"own-data"`.
        settings: a key below it, e.g. `"emoji"`; with `"own-data"` the model to begin with.
        data: what to train on.
        out: the run's folder; parts that this one starts from are runs beside it.
        minutes, steps, seed: in place of those of the settings.
        device: `"cpu"`, `"cuda"`, ...; the GPU where there is one.
        changes: other fields of `LoopSettings` in place of those of the settings. None is a value like others
            (`clip`: no bound); what is to stay is left out.
        timeout: minutes after which another process that does not answer counts as dead.
        tell: is given the resolved settings, as JSON, and the objective's remark, before the training.
        options: with `"own-data"`, keywords of `own_data`.

    Raises:
        ValueError: unknown names, values that are not allowed, or `out` holds another run.
    """
    build, where = named(objective, settings, options), place(device)
    given = {"minutes": minutes, "steps": steps, "seed": seed}
    changed = {name: value for name, value in given.items() if value is not None} | dict(changes or {})
    LoopSettings(**{"steps": 1, **changed})  # checks the values before anything long
    data, out = Path(data), Path(out)
    with joined(where, timedelta(minutes=timeout)) as world:
        what, loop = _in_turn(world, lambda: build(data, out, where))
        loop = replace(loop, **changed)
        if world.first:
            started = {"data": str(data.resolve()), "device": where.type, "processes": world.size}
            started |= {"threads": torch.get_num_threads()}  # sums are split by them
            resolved = {"objective": objective, "settings": settings, **what.settings(), "loop": asdict(loop)}
            resolved |= {"options": dict(options)} if options else {}
            text = json.dumps({**resolved, "started": started}, indent=2)
            with writing(out, lambda: still_there(out)):
                out.mkdir(parents=True, exist_ok=True)
                write_whole(out / "settings.json", lambda new: new.write_text(text + "\n"))
            if tell is not None:
                tell(text)
                if what.remark:
                    tell(what.remark)
        return train(what, loop, out, world)


def _in_turn(
    world: World, build: Callable[[], tuple[Objective[Any], LoopSettings]]
) -> tuple[Objective[Any], LoopSettings]:
    """The first process builds before the others, which then find what it encoded."""
    if not world.first:
        world.gather(None)
    built = build()
    if world.first:
        world.gather(None)
    return built
