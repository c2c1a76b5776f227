"""Training runs by objective and settings name."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch

from versatile_diffusion.files import write_whole
from versatile_diffusion.printable import brief
from versatile_diffusion.recipes.settings import find_settings
from versatile_diffusion.training.engine.config import LoopSettings
from versatile_diffusion.training.engine.distributed import TIMEOUT_MINUTES, World, joined, place
from versatile_diffusion.training.engine.folder import owned
from versatile_diffusion.training.engine.loop import Objective, Outcome, go_on


class RunOptions(TypedDict, total=False):
    """What a run takes besides its objective.

    Args:
        minutes, steps, seed: override the settings.
        changes: overrides of other fields of `LoopSettings`. None is a value like others (`clip`: no clipping); omit
            fields to keep.
        options: keywords of `own_data` with `"own-data"`.
    """

    minutes: float | None
    steps: int | None
    seed: int | None
    changes: Mapping[str, Any] | None
    options: Mapping[str, Any] | None


def run(
    objective: str,
    settings: str,
    data: Path | None,
    out: Path,
    *,
    device: str | None = None,
    timeout: float = TIMEOUT_MINUTES,
    tell: Callable[[str], None] | None = None,
    **more: Unpack[RunOptions],
) -> Outcome:
    """Train `objective` with named settings on `data` in `out`, or resume the run there.

    Under `torchrun` etc., every process calls this alike. `out` also receives `settings.json`.

    Args:
        objective: a key of `SETTINGS`, e.g. `"image-codec"`; or `"own-data"`.
        settings: a key below it, e.g. `"emoji"`; with `"own-data"` the model to start from.
        data: training data; None if options name sets to stream.
        out: the run's folder; runs of parts that it starts from are beside it.
        device: `"cpu"`, `"cuda"`, ...; default: the GPU if available.
        timeout: minutes after which an unresponsive process counts as dead.
        tell: called with ten lines of settings and the objective's remark before training.
        more: see `RunOptions`.

    Raises:
        ValueError: unknown names, invalid values, or another run in `out`.
    """
    options = more.get("options")
    build, where = find_settings(objective, settings, options), place(device)
    given: dict[str, Any] = {name: more.get(name) for name in ("minutes", "steps", "seed")}
    changed = {name: value for name, value in given.items() if value is not None} | dict(more.get("changes") or {})
    LoopSettings(**{"steps": 1, "schedule": "trapezoid", **changed})  # checks the values first
    data, out = None if data is None else Path(data), Path(out)
    with joined(where, timedelta(minutes=timeout)) as world, owned(out, world):
        what, loop = _in_turn(world, lambda: build(data, out, where))
        loop = replace(loop, **changed)

        def settle() -> None:
            started: dict[str, Any] = {} if data is None else {"data": str(data.resolve())}
            started |= {"device": where.type, "processes": world.size}
            started |= {"threads": torch.get_num_threads()}  # affects rounding
            resolved = {"objective": objective, "settings": settings, **what.settings(), "loop": asdict(loop)}
            resolved |= {"options": dict(options)} if options else {}
            text = json.dumps({**resolved, "started": started}, indent=2)
            write_whole(out / "settings.json", lambda new: new.write_text(text + "\n"))
            if tell is not None:
                tell("\n".join(headlines(resolved, started, out)))
                if what.remark:
                    tell(what.remark)

        return go_on(what, loop, out, world, settle)


MOST_LINES, MOST_VALUE = 10, 80
"""Lines of settings that are printed; characters of a value in them. The file has everything."""


def headlines(resolved: Mapping[str, Any], started: Mapping[str, Any], out: Path) -> list[str]:
    """Return what a person wants to see of a run's settings: at most ten lines, the last one with the file of all."""
    loop = resolved["loop"]
    length = f"{loop['steps']} steps" if loop["by_clock"] is None else f"{loop['by_clock']:g} minutes"
    limit = "" if loop["minutes"] is None else f", {loop['minutes']:g} minutes of it now"
    lines = {
        "training": f"{resolved['objective']} ({resolved['settings']})",
        "data": started.get("data", "streamed"),
        "on": f"{started['device']}, {started['processes']} process(es), {started['threads']} thread(s)",
        "length": f"{length}{limit}, learning rate {loop['schedule']} after {loop['warmup']} steps of warm-up",
        "checkpoints": f"every {loop['checkpoint_minutes']:g} minutes, the last {loop['keep']} are kept",
        "seed": loop["seed"],
    }
    rest = {name: value for name, value in resolved.items() if name not in ("objective", "settings", "loop", "options")}
    plain = {name: value for name, value in rest.items() if isinstance(value, str | int | float) and value != ""}
    lines |= {name: value for name, value in plain.items() if name not in lines}
    written = [f"{name.replace('_', ' ')}: {brief(str(value), MOST_VALUE)}" for name, value in lines.items()]
    return [*written[: MOST_LINES - 1], f"all settings: {out / 'settings.json'}"]


def _in_turn(
    world: World, build: Callable[[], tuple[Objective[Any], LoopSettings]]
) -> tuple[Objective[Any], LoopSettings]:
    """Let the first process build first; the others then reuse what it encoded."""
    built = world.first_alone(build)
    return build() if built is None else built
