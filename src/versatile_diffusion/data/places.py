"""Where independent pieces of work are done: in this process, or as tasks of a Ray cluster."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Spread(Protocol):
    """Calls a function with every piece, in any order and anywhere; yields each piece once it is done."""

    def __call__(self, work: Callable[[T], None], pieces: Sequence[T]) -> Iterator[T]: ...


def in_turn(work: Callable[[T], None], pieces: Sequence[T]) -> Iterator[T]:
    """One piece after the other, in this process."""
    for piece in pieces:
        work(piece)
        yield piece


MOST_TRIES = 4
"""How often a piece is tried whose process ended, or that failed."""


def spread_over(address: str | None, actors: bool = False) -> Spread:
    """This process, or a Ray cluster by its address (`"local"` starts one here). With `actors` the work keeps
    what it has loaded from one piece to the next, in as many processes as the cluster has devices."""
    if address is None:
        return in_turn
    return partial(_by_actors if actors else _on_ray, address)


def join(address: str) -> None:
    """Connect to a cluster, unless this process has."""
    import ray

    if not ray.is_initialized():
        ray.init(address, log_to_driver=False)


def _by_actors(address: str, work: Callable[[T], None], pieces: Sequence[T]) -> Iterator[T]:
    """Each piece by an actor that has a copy of the work. A piece that fails is tried by another one; where the actor
    ended with it, a new one takes its place.

    Raises:
        ValueError: the work refuses a piece; whatever else it raised the last time.
    """
    import ray

    join(address)
    device = "GPU" if ray.cluster_resources().get("GPU", 0) else "CPU"
    options: Any = {"num_gpus": 1, "num_cpus": 1} if device == "GPU" else {"num_cpus": 1}
    kept, waiting, tries = ray.put(work), deque(enumerate(pieces)), Counter[int]()
    running: dict[Any, tuple[Any, int, T]] = {}
    count = min(len(pieces), max(1, int(ray.cluster_resources().get(device, 1))))
    actor: Any = ray.remote(**options)(_Worker)
    free = [actor.remote(kept) for _ in range(count)]
    while waiting or running:
        while waiting and free:
            mine, (place, piece) = free.pop(0), waiting.popleft()
            running[mine.do.remote(piece)] = (mine, place, piece)
        (done,), _ = ray.wait(list(running))
        mine, place, piece = running.pop(done)
        try:
            ray.get(done)
        except Exception as error:
            tries[place] += 1
            cause = getattr(error, "cause", error)
            if isinstance(cause, ValueError):
                raise cause from None
            if tries[place] == MOST_TRIES:
                raise
            waiting.append((place, piece))
            ended = isinstance(error, ray.exceptions.RayActorError)
            free.append(actor.remote(kept) if ended else mine)
            continue
        free.append(mine)
        yield piece


class _Worker:
    """The process of an actor."""

    def __init__(self, work: Callable[[Any], None]):
        self.work = work

    def do(self, piece: Any) -> None:
        self.work(piece)


def _on_ray(address: str, work: Callable[[T], None], pieces: Sequence[T]) -> Iterator[T]:
    """Each piece as a task of its own. A task of a node that was lost runs again on another one."""
    import ray

    join(address)
    task: Any = ray.remote(max_retries=3)(lambda piece: work(piece))
    waiting = {task.remote(piece): piece for piece in pieces}
    while waiting:
        (done,), _ = ray.wait(list(waiting))
        ray.get(done)
        yield waiting.pop(done)
