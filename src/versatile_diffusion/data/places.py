"""Where independent pieces of work run: in this process, or on a Ray cluster."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Protocol, TypeVar

T = TypeVar("T")


class Spread(Protocol):
    """Call a function with every piece, in any order and on any machine; yield each piece when it is done."""

    def __call__(self, work: Callable[[T], None], pieces: Sequence[T]) -> Iterator[T]: ...


def in_turn(work: Callable[[T], None], pieces: Sequence[T]) -> Iterator[T]:
    """Process the pieces one after another in this process."""
    for piece in pieces:
        work(piece)
        yield piece


MOST_TRIES = 4
"""Maximum number of attempts per piece."""


def spread_over(address: str | None, actors: bool = False) -> Spread:
    """Use this process, or a Ray cluster by its address (`"local"` starts one here). With `actors`, one process per
    device keeps what it has loaded between pieces."""
    if address is None:
        return in_turn
    return partial(_by_actors if actors else _on_ray, address)


def join(address: str) -> None:
    """Connect to a cluster, unless this process has."""
    import ray

    if not ray.is_initialized():
        ray.init(address, log_to_driver=False)


def _by_actors(address: str, work: Callable[[T], None], pieces: Sequence[T]) -> Iterator[T]:
    """Process pieces with actors that each hold a copy of the work. A failed piece is tried again; an actor that died
    is replaced.

    Raises:
        ValueError: the work rejects a piece. Other exceptions are raised after the last attempt.
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
    """Process each piece as a Ray task. Tasks of a lost node run again on another one."""
    import ray

    join(address)
    task: Any = ray.remote(max_retries=3)(lambda piece: work(piece))
    waiting = {task.remote(piece): piece for piece in pieces}
    while waiting:
        (done,), _ = ray.wait(list(waiting))
        ray.get(done)
        yield waiting.pop(done)
