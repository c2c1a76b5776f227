"""Whose turn it is: clients take turns, and each client's requests are served in their order."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator

from versatile_diffusion.serving.jobs import Job


class Turns:
    """Jobs that wait for a place, by client. It is not safe for several threads."""

    def __init__(self) -> None:
        self._clients: OrderedDict[str, deque[Job]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._clients.values()))

    def __iter__(self) -> Iterator[Job]:
        return (job for jobs in self._clients.values() for job in jobs)

    def add(self, job: Job) -> None:
        """A job at the end of its client's."""
        self._clients.setdefault(job.client, deque()).append(job)

    @property
    def heads(self) -> list[Job]:
        """The first job of each client, in the order of their turns."""
        return [jobs[0] for jobs in self._clients.values()]

    def took(self, job: Job) -> None:
        """The client of a job had its turn; a job of which no part waits any more leaves."""
        if not job.waits:
            self.drop(job)
        if job.client in self._clients:
            self._clients.move_to_end(job.client)

    def drop(self, job: Job) -> None:
        """Takes a job out, if it is there."""
        jobs = self._clients.get(job.client)
        if jobs is None or job not in jobs:
            return
        jobs.remove(job)
        if not jobs:
            del self._clients[job.client]
