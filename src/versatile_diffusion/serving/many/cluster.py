"""Shards on a Ray cluster: Ray Data hands them to actors, one for each device, which keep the model that they loaded.

Where an actor's process ends, Ray starts another one and gives it the same shard, which goes on with the first batch
that is missing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from versatile_diffusion.data.places import Spread, T, in_turn, join


class _ModelWorker:
    """The process of an actor."""

    def __init__(self, work: Callable[[Any], None], pieces: Sequence[Any]):
        self.work, self.pieces = work, pieces

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Does a piece. What it refuses is handed back, since Ray wraps what is raised."""
        told = {"place": row["place"], "kind": "", "error": ""}
        try:
            self.work(self.pieces[row["place"]])
        except (ValueError, OSError) as error:
            told |= {"kind": type(error).__name__, "error": str(error)}
        return told


def by_ray_data(address: str | None) -> Spread:
    """This process where there is no address; else a Ray cluster (`"local"` starts one here)."""
    return in_turn if address is None else partial(_spread, address)


def _spread(address: str, work: Callable[[T], None], pieces: Sequence[T]) -> Iterator[T]:
    """Yields each piece once it is done.

    Raises:
        ValueError, OSError: the work refuses a piece, or cannot write.
    """
    import ray
    import ray.data

    if not pieces:
        return
    join(address)
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # else it reports every step of its own
    ray.data.DataContext.get_current().enable_progress_bars = False
    device = "GPU" if ray.cluster_resources().get("GPU", 0) else "CPU"
    count = min(len(pieces), max(1, int(ray.cluster_resources().get(device, 1))))
    places = ray.data.from_items([{"place": k} for k in range(len(pieces))], override_num_blocks=len(pieces))
    worker: Any = _ModelWorker  # a class, since its instances keep the model
    done = places.map(
        worker,
        fn_constructor_args=(work, list(pieces)),
        compute=ray.data.ActorPoolStrategy(size=count),
        num_gpus=1 if device == "GPU" else None,
        num_cpus=None if device == "GPU" else 1,
    )
    for row in done.iter_rows():
        if row["error"]:
            raise (ValueError if row["kind"] == "ValueError" else OSError)(row["error"])
        yield pieces[row["place"]]
