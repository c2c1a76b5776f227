"""Who is one client, and how much it may do."""

from __future__ import annotations

import math
import threading

import pytest

from versatile_diffusion.serving.clients import client_of
from versatile_diffusion.ui.queue import throttle
from versatile_diffusion.ui.queue.throttle import Rate, Throttle


class Clock:
    """A clock that goes when it is told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_what_is_used_grows_back(clock: Clock) -> None:
    some = Throttle(Rate(burst=3, per_second=0.5), clock)
    assert [some.take("ada") for _ in range(3)] == [0, 0, 0]
    assert some.take("ada") == 2
    assert some.take("bob") == 0
    clock.now = 2
    assert some.take("ada") == 0
    assert some.take("ada") == 2
    clock.now = 1000
    assert [some.take("ada") for _ in range(4)] == [0, 0, 0, 2]  # no more than the burst is saved up


def test_amounts(clock: Clock) -> None:
    some = Throttle(Rate(burst=100, per_second=1), clock)
    assert some.take("ada", 101) == math.inf
    assert some.take("ada", 80) == 0
    assert some.take("ada", 30) == 10
    assert some.take("ada", 20) == 0
    some.give_back("ada", 500)
    assert some.take("ada", 100) == 0


def test_clients_are_forgotten_before_they_fill_the_memory(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throttle, "MOST_CLIENTS", 10)
    some = Throttle(Rate(burst=1, per_second=1e-9), clock)
    for k in range(50):
        some.take(f"client {k}")
    assert len(some._left) == 10
    assert some.take("client 49") > 0


def test_many_at_once_take_no_more_than_there_is(clock: Clock) -> None:
    some, took = Throttle(Rate(burst=50, per_second=1), clock), []
    threads = [threading.Thread(target=lambda: took.extend(some.take("ada") == 0 for _ in range(40))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(took) == 50


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("2001:db8::1", None), ("2001:db8::ffff:2", None)),  # one site
        (("::ffff:192.0.2.7", None), ("192.0.2.7", None)),
        (("fe80::1%eth0", None), ("fe80::1%eth1", None)),
        (("192.0.2.7", "ada"), ("192.0.2.8", "ada")),
    ],
)
def test_the_same_client(one: tuple[str, str | None], other: tuple[str, str | None]) -> None:
    assert client_of(*one) == client_of(*other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("192.0.2.7", None), ("192.0.2.8", None)),
        (("2001:db8:0:1::1", None), ("2001:db8:0:2::1", None)),
        (("192.0.2.7", "ada"), ("192.0.2.7", "bob")),
        (("192.0.2.7", None), ("192.0.2.8", "192.0.2.7")),  # a login that is called like an address
        ((None, None), ("testclient", None)),
    ],
)
def test_different_clients(one: tuple[str | None, str | None], other: tuple[str | None, str | None]) -> None:
    assert client_of(*one) != client_of(*other)
