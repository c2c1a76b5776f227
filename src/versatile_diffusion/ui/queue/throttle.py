"""How much one client may do: what it has used grows back with time."""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

MOST_CLIENTS = 10_000  # remembered at once


@dataclass(frozen=True)
class Rate:
    """An allowance.

    Args:
        burst: how much at once.
        per_second: how much of it grows back.
    """

    burst: float
    per_second: float


class Throttle:
    """A token bucket for each client.

    Args:
        rate: of each client.
        clock: seconds.
    """

    def __init__(self, rate: Rate, clock: Callable[[], float] = time.monotonic):
        self.rate, self.clock = rate, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # how much, and when that was
        self._lock = threading.Lock()

    def take(self, client: str, amount: float = 1) -> float:
        """Takes an amount, and gives 0; or takes nothing, and gives the seconds to wait (inf: never that much)."""
        with self._lock:
            left = self._now(client)
            if amount > left:
                return math.inf if amount > self.rate.burst else (amount - left) / self.rate.per_second
            self._set(client, left - amount)
            return 0.0

    def give_back(self, client: str, amount: float = 1) -> None:
        """Takes back that an amount was taken."""
        with self._lock:
            self._set(client, min(self._now(client) + amount, self.rate.burst))

    def _now(self, client: str) -> float:
        left, then = self._left.get(client, (self.rate.burst, self.clock()))
        return min(left + (self.clock() - then) * self.rate.per_second, self.rate.burst)

    def _set(self, client: str, left: float) -> None:
        self._left[client] = left, self.clock()
        self._left.move_to_end(client)
        if len(self._left) > MOST_CLIENTS:
            self._left.popitem(last=False)
