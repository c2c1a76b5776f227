"""Clients take turns, and so do the people of one client."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from versatile_diffusion.serving.turns import Turns


@dataclass(frozen=True)
class Asked:
    client: str
    person: str
    number: int


FIRST, SECOND, OTHER = Asked("a", "p", 1), Asked("a", "p", 2), Asked("b", "r", 3)
BESIDE = Asked("a", "q", 4)


@pytest.fixture
def turns() -> Turns[Asked]:
    made: Turns[Asked] = Turns(lambda job: job.person)
    for job in (FIRST, SECOND, OTHER, BESIDE):
        made.add(job)
    return made


def test_people_of_a_client_take_turns_and_so_do_clients(turns: Turns[Asked]) -> None:
    assert list(turns) == [FIRST, OTHER, BESIDE, SECOND]
    assert turns.heads == [FIRST, OTHER]
    assert (len(turns), turns.count("a"), turns.count("nobody")) == (4, 3, 0)
    turns.rotate(FIRST)
    assert list(turns) == [OTHER, BESIDE, FIRST, SECOND]


def test_by_default_a_client_is_one_person_whose_requests_keep_their_order() -> None:
    turns: Turns[Asked] = Turns()
    for job in (FIRST, BESIDE, SECOND, OTHER):
        turns.add(job)
    assert list(turns) == [FIRST, OTHER, BESIDE, SECOND]
    turns.rotate(FIRST)
    assert turns.heads == [OTHER, FIRST]


def test_one_that_leaves_may_leave_twice_and_nothing_stays_of_an_empty_client(turns: Turns[Asked]) -> None:
    for job in (OTHER, OTHER, SECOND):
        turns.drop(job)
    assert list(turns) == [FIRST, BESIDE]
    turns.rotate(OTHER)
    assert turns.heads == [FIRST]
    turns.drop(FIRST)
    turns.drop(BESIDE)
    assert (list(turns), len(turns), turns.heads) == ([], 0, [])
