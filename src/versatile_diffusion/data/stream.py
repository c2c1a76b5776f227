"""Shards streamed while training: shuffled, endless, in bounded memory.

Samples are distributed over lanes, one for each batch of a step, with their own shards. The output of a lane depends on
the seed, its number and the number of lanes, not on the processes that read them. Its position can be saved between two
batches, so a run resumes in the middle of an epoch with any number of processes that divides the number of lanes.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any, Generic, Protocol, TypeVar

from versatile_diffusion.data.report import Report
from versatile_diffusion.data.sources import START, Position, Source

WINDOW = 1024
"""Size of a lane's shuffle buffer, in undecoded samples."""
EMPTY_ROUNDS = 2
"""Number of epochs without a usable sample after which a lane gives up."""
T = TypeVar("T")
Made = TypeVar("Made", covariant=True)
Bookmark = Mapping[str, Any]
Drawn = tuple[Hashable, list[T]]
"""The samples of a batch, and the shape that they share."""


class SampleReader(Protocol[Made]):
    """Turns the samples of a set into what is trained on."""

    def keep(self, raw: Any, report: Report) -> tuple[Any, Hashable] | None:
        """The compact form of a sample in the shuffle buffer, and the shape that its batch must share; None, and
        counted, if it is bad or not used for training."""

    def open(self, kept: Any, report: Report) -> Made | None:
        """The decoded sample; None, and counted, if it is bad."""


@dataclass(frozen=True)
class Share(Generic[T]):
    """One of the sets that are mixed.

    Args:
        source: its shards.
        reader: decodes its samples.
        weight: relative sampling weight.
    """

    source: Source
    reader: SampleReader[T]
    weight: float = 1.0


@dataclass(frozen=True)
class Waiting:
    """A sample in the shuffle buffer: index of its set, its position there, its shape, and its compact form."""

    share: int
    place: Position
    shape: Hashable
    kept: Any


@dataclass
class Lane(Generic[T]):
    """One of `lanes` readers, each with its own shards.

    Args:
        shares: the complete sets.
        number: of this lane.
        lanes: number of lanes.
        seed: of shard order, mixing and shuffling.
        window: size of the shuffle buffer.
        allowed: share of samples, and of shards, that may be bad.
    """

    shares: Sequence[Share[T]]
    number: int
    lanes: int
    seed: int
    window: int = WINDOW
    allowed: float = 0.05
    report: Report = field(init=False)

    def __post_init__(self) -> None:
        self.parts = [share.source.part(self.number, self.lanes) for share in self.shares]
        self.restart()

    def restart(self) -> None:
        """Return to the first sample."""
        self.report = Report(self.allowed)
        self.step = self.fed = 0
        self.after = [START] * len(self.shares)
        self.waiting: list[Waiting] = []
        self._open()

    def _open(self) -> None:
        self.coming: list[tuple[Waiting, Position] | None] = [None] * len(self.shares)
        self.walks = [self._walk(number) for number in range(len(self.shares))]

    def _walk(self, number: int) -> Iterator[tuple[Waiting, Position]]:
        """Yield the samples of a set from the lane's position on, with the position after each."""
        reader = self.shares[number].reader

        def keep(raw: Any) -> tuple[Any, Hashable] | None:
            return reader.keep(raw, self.report)

        part, here, empty = self.parts[number], self.after[number], 0
        while empty < EMPTY_ROUNDS:
            empty += 1
            for (kept, shape), after in part.walk(keep, here, self.report, self.seed, here.epoch + 1):
                empty = 0
                place = Position(after.epoch, after.shard, after.sample - 1)
                yield Waiting(number, place, shape, kept), after
            here = Position(here.epoch + 1)
        raise ValueError(f"{part.path} has no usable sample in the shards of reader {self.number} of {self.lanes}")

    def _feed(self, new_epoch: bool) -> bool:
        """Add a sample to the shuffle buffer; the first one of a set's next epoch only if `new_epoch`."""
        number = 0
        if len(self.shares) > 1:
            weights = [share.weight for share in self.shares]
            draw = random.Random(f"{self.seed}/{self.number}/mix/{self.fed}")  # nosec B311 # reproducible
            (number,) = draw.choices(range(len(weights)), weights)
        coming = self.coming[number] or next(self.walks[number])
        self.coming[number] = coming
        if not new_epoch and coming[0].place.epoch > self.after[number].epoch:
            return False
        self.coming[number] = None
        self.waiting.append(coming[0])
        self.after[number] = coming[1]
        self.fed += 1
        return True

    def batches(self, sizes: Sequence[int]) -> list[Drawn[T]]:
        """The batches of the next step with the given sizes, each of one shape."""
        draw = random.Random(f"{self.seed}/{self.number}/draw/{self.step}")  # nosec B311 # reproducible
        batches = [self._batch(size, draw) for size in sizes]
        self.step += 1
        return batches

    def _batch(self, size: int, draw: random.Random) -> Drawn[T]:
        found: list[T] = []
        shape: Hashable = None
        while len(found) < size:
            shape = self._shape(size, draw) if not found else self._more(shape, size - len(found))
            alike = [place for place, one in enumerate(self.waiting) if one.shape == shape]
            chosen = draw.sample(alike, size - len(found))
            picked = [self.waiting[place] for place in chosen]
            for place in sorted(chosen, reverse=True):
                self.waiting.pop(place)
            opened = [self.shares[one.share].reader.open(one.kept, self.report) for one in picked]
            self.report.good -= sum(one is None for one in opened)
            found += [one for one in opened if one is not None]
        return shape, found

    def _shape(self, size: int, draw: random.Random) -> Hashable:
        """A random shape with enough samples in the buffer, weighted by their number."""
        mixed = len(self.shares) > 1  # epochs are not separated when sets are mixed
        while len(self.waiting) < self.window and self._feed(new_epoch=mixed):
            pass
        while not (enough := {s: n for s, n in Counter(one.shape for one in self.waiting).items() if n >= size}):
            self._feed(new_epoch=True)
        return draw.choices(list(enough), list(enough.values()))[0]

    def _more(self, shape: Hashable, size: int) -> Hashable:
        """Fill the buffer until it has enough samples of a shape; return the shape."""
        while sum(one.shape == shape for one in self.waiting) < size:
            self._feed(new_epoch=True)
        return shape

    def bookmark(self) -> dict[str, Any]:
        """The position of the lane as plain JSON."""
        return {
            "step": self.step,
            "fed": self.fed,
            "lanes": self.lanes,
            "after": [[p.epoch, p.shard, p.sample] for p in self.after],
            "waiting": [[w.share, w.place.epoch, w.place.shard, w.place.sample] for w in self.waiting],
        }

    def go_to(self, bookmark: Bookmark) -> None:
        """Continue at a saved position of the same lane. The samples of its buffer are read again.

        Raises:
            ValueError: some no longer exist.
        """
        self.restart()
        self.step, self.fed = bookmark["step"], bookmark["fed"]
        self.after = [Position(*place) for place in bookmark["after"]]
        wanted = [(share, Position(*place)) for share, *place in bookmark["waiting"]]
        found = self._read_again(wanted)
        if lost := [place for place in wanted if place not in found]:
            raise ValueError(
                f"{self.shares[lost[0][0]].source.path} has changed: {len(lost)} samples of the saved shuffle buffer "
                "no longer exist; start a new run"
            )
        self.waiting = [found[place] for place in wanted]
        self._open()

    def _read_again(self, wanted: Sequence[tuple[int, Position]]) -> dict[tuple[int, Position], Waiting]:
        by_shard: dict[tuple[int, int, int], set[int]] = defaultdict(set)
        for share, place in wanted:
            by_shard[share, place.epoch, place.shard].add(place.sample)
        found: dict[tuple[int, Position], Waiting] = {}
        report = Report(allowed=1.0)  # they were counted before
        for (share, epoch, shard), numbers in by_shard.items():
            part, reader = self.parts[share], self.shares[share].reader
            if shard >= len(part.shards):
                continue
            samples = part.shards[part.order(self.seed, epoch)[shard]].samples(min(numbers))
            for number, raw in islice(enumerate(samples, min(numbers)), max(numbers) - min(numbers) + 1):
                if number in numbers and (kept := reader.keep(raw, report)) is not None:
                    place = Position(epoch, shard, number)
                    found[share, place] = Waiting(share, place, kept[1], kept[0])
        return found


@dataclass
class Stream(Generic[T]):
    """The lanes that this process reads, one step ahead of the training.

    Args:
        shares: the sets that are mixed.
        window: size of each lane's shuffle buffer.
        allowed: share of samples, and of shards, that may be bad.
    """

    shares: Sequence[Share[T]]
    window: int = WINDOW
    allowed: float = 0.05

    def __post_init__(self) -> None:
        self.start(0, {})

    def start(self, seed: int, bookmarks: Mapping[int, Bookmark]) -> None:
        """Start reading.

        Args:
            seed: of all random orders.
            bookmarks: saved positions of the lanes; others start at the first sample.
        """
        self.seed, self.given = seed, dict(bookmarks)
        self.lanes: dict[int, Lane[T]] = {}
        self.coming: dict[int, Future[tuple[int, list[Drawn[T]], dict[str, Any]]]] = {}
        self.marks: dict[int, dict[str, Any]] = {}

    @cached_property
    def _thread(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, thread_name_prefix="read-ahead")

    def batches(self, step: int, lane: int, lanes: int, sizes: Callable[[int], Sequence[int]]) -> list[Drawn[T]]:
        """The batches of a lane in a step, with the sizes `sizes(step)`. Steps are expected in order; any other step
        requires reading all steps before it."""
        coming = self.coming.pop(lane, None)
        found = coming.result() if coming is not None else self._read(step, lane, lanes, sizes)
        if found[0] != step:
            found = self._read(step, lane, lanes, sizes)
        _, batches, self.marks[lane] = found
        self.coming[lane] = self._thread.submit(self._read, step + 1, lane, lanes, sizes)
        return batches

    def _read(
        self, step: int, number: int, lanes: int, sizes: Callable[[int], Sequence[int]]
    ) -> tuple[int, list[Drawn[T]], dict[str, Any]]:
        lane = self.lanes.get(number)
        if lane is None or lane.lanes != lanes:
            lane = self.lanes[number] = Lane(self.shares, number, lanes, self.seed, self.window, self.allowed)
            if (mark := self.given.get(number)) is not None and mark["step"] <= step and mark["lanes"] == lanes:
                lane.go_to(mark)
        if step < lane.step:
            lane.restart()
        while lane.step < step:
            lane.batches(sizes(lane.step))
        return step, lane.batches(sizes(step)), lane.bookmark()

    def bookmarks(self) -> dict[int, dict[str, Any]]:
        """Positions of this process's lanes after the last requested batches."""
        return dict(self.marks)

    def reports(self) -> list[Report]:
        """Reports of this process's lanes."""
        return [lane.report for lane in self.lanes.values()]
