"""Shards read while training: every sample once a round, the same whoever reads them, from any place on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from versatile_diffusion.data.report import Report
from versatile_diffusion.data.sources import Source
from versatile_diffusion.data.stream import Lane, Share, Stream

BAD, BROKEN = "bad", "broken"


@dataclass(frozen=True)
class Numbers:
    """A shard of samples that are words; `opened` counts how often it is read."""

    path: Path
    words: tuple[str, ...]
    opened: list[int] = field(default_factory=list, compare=False)
    content: str = ""

    def samples(self, start: int) -> Iterator[str]:
        self.opened.append(start)
        for word in self.words[start:]:
            if word == BROKEN:
                raise OSError("it breaks off")
            yield word


class Words:
    """Words; those that begin with a letter wait for others of the same letter."""

    def keep(self, raw: Any, report: Report) -> tuple[Any, Hashable] | None:
        with report.guard(raw):
            if raw == BAD:
                raise ValueError("it is bad")
            return raw, raw[0] if raw[0].isalpha() else None
        return None

    def open(self, kept: Any, report: Report) -> str | None:
        if kept.endswith("!"):
            report.skip("cannot be opened", kept)
            return None
        return kept


def share(shards: Sequence[Sequence[str]], weight: float = 1.0, name: str = "a") -> Share[str]:
    made = tuple(Numbers(Path(f"{name}{number}"), tuple(words)) for number, words in enumerate(shards))
    return Share(Source(Path(name), made), Words(), weight)


def numbered(shards: int, each: int, sign: str = "") -> list[list[str]]:
    return [[f"{sign}{shard * each + place}" for place in range(each)] for shard in range(shards)]


def drawn(lane: Lane[str], steps: int, sizes: Sequence[int] = (4,)) -> list[list[str]]:
    return [words for _ in range(steps) for _, words in lane.batches(sizes)]


@pytest.mark.parametrize("lanes", [1, 2, 3, 5, 8])
def test_each_round_has_every_sample_once(lanes: int) -> None:
    """Whether there are more shards than lanes or fewer; in another order each time."""
    mine = share(numbered(5, 16))
    rounds: list[Counter[str]] = [Counter(), Counter()]
    orders = []
    for number in range(lanes):
        lane = Lane([mine], number, lanes, seed=1, window=16)
        length = sum(len(list(shard.samples(0))) for shard in lane.parts[0].shards)
        for found in rounds:
            words = [word for (word,) in drawn(lane, length, (1,))]
            found.update(words)
            orders.append(words)
    assert rounds[0] == rounds[1] == Counter(str(n) for n in range(80))
    assert orders[0] != orders[1]
    assert orders[0] != sorted(orders[0], key=int)


def test_seeds_have_orders_of_their_own_and_samples_of_one_shard_are_spread() -> None:
    mine = share(numbered(4, 50))
    one, other, again = (drawn(Lane([mine], 0, 1, seed, 100), 20) for seed in (1, 2, 1))
    assert one == again != other
    first = {int(word) // 50 for word in one[0] + one[1] + one[2]}
    assert len(first) == 2  # a window reaches over two shards


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 60), st.integers(1, 4), st.integers(1, 40), st.sampled_from([(4,), (3, 5), (1, 1, 2)]))
def test_a_lane_goes_on_from_any_bookmark(steps: int, lanes: int, window: int, sizes: tuple[int, ...]) -> None:
    """With bad samples, those that are found to be bad late, and several shapes."""
    shards = [["1", "a2", BAD, "b3", "4!", "b5", "a6"], ["7", "8", "a9", "b10"], ["11", "b12!", "13"], ["a14", "15"]]
    whole, part = (Lane([share(shards)], lanes - 1, lanes, 3, window, allowed=1.0) for _ in range(2))
    drawn(whole, steps, sizes)
    mark = whole.bookmark()
    part.go_to(mark)
    assert part.bookmark() == mark
    assert drawn(part, 10, sizes) == drawn(whole, 10, sizes)
    assert part.bookmark() == whole.bookmark()


def test_batches_have_one_shape_and_rare_ones_wait_until_there_are_enough() -> None:
    words = [f"a{n}" if n % 9 == 0 else f"b{n}" for n in range(90)]
    batches = drawn(Lane([share([words])], 0, 1, 0, window=20), 40, (3,))
    assert all(len({word[0] for word in batch}) == 1 for batch in batches)
    kinds = Counter(batch[0][0] for batch in batches)
    assert kinds["b"] > 3 * kinds["a"] > 0
    assert max(Counter(word for batch in batches[:28] for word in batch).values()) == 1


def test_a_stream_gives_what_the_step_asks_for_whoever_reads_it() -> None:
    """One process or two; gone on with another number of them; asked for a step before, or far ahead."""

    def sizes(step: int) -> list[int]:
        return [2 + step % 3]

    def read(stream: Stream[str], steps: range, lanes: Sequence[int]) -> dict[tuple[int, int], Any]:
        return {(step, lane): stream.batches(step, lane, 4, sizes) for step in steps for lane in lanes}

    def fresh() -> Stream[str]:
        stream: Stream[str] = Stream([share(numbered(6, 10))], window=8)
        stream.start(5, {})
        return stream

    one = fresh()
    whole = read(one, range(12), range(4))
    first, second = fresh(), fresh()
    two = read(first, range(7), (0, 2)) | read(second, range(7), (1, 3))
    marks = first.bookmarks() | second.bookmarks()
    last = fresh()
    last.start(5, marks)
    before = sum(len(shard.opened) for shard in last.shares[0].source.shards)
    two |= read(last, range(7, 12), range(4))
    assert two == whole
    assert before == 0
    assert read(one, range(3, 4), (1,)) == {(3, 1): whole[3, 1]}  # back
    assert read(fresh(), range(9, 10), (2,)) == {(9, 2): whole[9, 2]}  # ahead


def test_sets_are_mixed_by_weight() -> None:
    mixed = [share(numbered(4, 300, "x"), 3.0, "x"), share(numbered(2, 30, "y"), 1.0, "y")]
    for one in mixed:
        object.__setattr__(one.reader, "keep", lambda raw, report: (raw, None))
    lane = Lane(mixed, 0, 1, 0, window=64)
    words = [word for batch in drawn(lane, 200) for word in batch]
    assert 0.68 < sum(word[0] == "x" for word in words) / len(words) < 0.82
    again = Lane(mixed, 0, 1, 0, window=64)
    again.go_to(lane.bookmark())
    assert drawn(again, 5) == drawn(lane, 5)


def test_too_much_that_is_bad_stops_the_reading() -> None:
    shards = [[BAD] * 10 + ["1", "2"] for _ in range(4)]
    with pytest.raises(ValueError, match="too many bad samples"):
        drawn(Lane([share(shards)], 0, 1, 0), 20)
    with pytest.raises(ValueError, match="shards are bad"):
        drawn(Lane([share([["1", BROKEN], ["2", BROKEN], ["3"]])], 0, 1, 0), 20)
    lane = Lane([share([["1", BROKEN], *numbered(30, 4)])], 0, 1, 0)
    drawn(lane, 20)
    assert lane.report.bad_shards.total() == 1
    with pytest.raises(ValueError, match="no usable sample"):
        drawn(Lane([share([["1"], ["2"]])], 4, 5, 0), 1)


def test_samples_that_are_gone_are_told() -> None:
    lane = Lane([share(numbered(2, 30))], 0, 1, 0, window=40)
    drawn(lane, 2)
    with pytest.raises(ValueError, match=r"has changed: .* no longer exist"):
        Lane([share(numbered(2, 5))], 0, 1, 0, window=40).go_to(lane.bookmark())


def test_what_waits_is_no_more_than_the_window() -> None:
    lane = Lane([share(numbered(50, 40))], 0, 1, 0, window=32)
    for _ in range(100):
        lane.batches((8,))
        assert len(lane.waiting) <= 32
