"""Whose turn it is: clients take turns, and each client's requests are served in their order."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from itertools import zip_longest
from typing import Generic, Protocol, TypeVar


class Client(Protocol):
    """What a request says of whose it is."""

    client: str


J = TypeVar("J", bound=Client)


class Turns(Generic[J]):
    """Requests in line. It is not safe for several threads.

    Args:
        person: which of a client's people a request is of; they take turns, too. By default a client is one person.
    """

    def __init__(self, person: Callable[[J], str] = lambda job: ""):
        self._person = person
        self._clients: OrderedDict[str, OrderedDict[str, deque[J]]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(self.count, self._clients))

    def __iter__(self) -> Iterator[J]:
        """Yield all requests in the order of their turns."""
        return _in_turn([list(_in_turn(people.values())) for people in self._clients.values()])

    def count(self, client: str) -> int:
        """Return the number of a client's requests."""
        return sum(map(len, self._clients.get(client, {}).values()))

    def add(self, job: J) -> None:
        """Append a request to its person's."""
        self._clients.setdefault(job.client, OrderedDict()).setdefault(self._person(job), deque()).append(job)

    @property
    def heads(self) -> list[J]:
        """The first request of each client, in the order of their turns."""
        return [next(iter(people.values()))[0] for people in self._clients.values()]

    def rotate(self, job: J) -> None:
        """Move the client and the person of a request to the end: they had their turn."""
        if job.client in self._clients:
            people = self._clients[job.client]
            if self._person(job) in people:
                people.move_to_end(self._person(job))
            self._clients.move_to_end(job.client)

    def drop(self, job: J) -> None:
        """Remove a request, if it is there."""
        people = self._clients.get(job.client, OrderedDict())
        jobs = people.get(self._person(job))
        if jobs is None or job not in jobs:
            return
        jobs.remove(job)
        if not jobs:
            del people[self._person(job)]
        if not people:
            del self._clients[job.client]


def _in_turn(rows: Iterable[Iterable[J]]) -> Iterator[J]:
    """Yield the first of each row, then the second of each, and so on."""
    return (job for column in zip_longest(*rows) for job in column if job is not None)
