"""Results of a session: images as PNG files with embedded settings, texts as JSON."""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from PIL import Image

from versatile_diffusion.cli.io.results import RECORD, as_document, record
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.modalities.text import one_line
from versatile_diffusion.pipeline.output import Output
from versatile_diffusion.records.png import save_png, write_value
from versatile_diffusion.ui.queue.jobs import StudioJob

STUDIO = "studio"
"""Record field with the tab that an output came from and its inputs."""


@dataclass(frozen=True)
class Made:
    """A stored result.

    Args:
        data: modality.
        text: the text, or an image's caption; empty if none.
        file: PNG of an image, JSON of a text, file of another value (with a JSON file beside it).
        record: settings that reproduce it.
        label: distinguishes it from the other results.
        size: file size in bytes.
    """

    data: str
    text: str
    file: Path
    record: dict[str, Any]
    label: str = ""
    size: int = 0


@dataclass(frozen=True)
class Sheet:
    """All runs of a job on one sheet.

    Args:
        record: record of all runs, as written by `versatile sweep`.
        image: labelled sheet of images.
        table: HTML table of texts.
    """

    record: dict[str, Any]
    image: Image.Image | None = None
    table: str = ""


@dataclass
class Shelf:
    """Results and input images of one person, oldest first.

    Args:
        folder: folder of this person's files.
        made: results by permanent number.
        inputs: uploaded images by digest.
        numbers: numbers of the next results.
        client: client of the page.
        seen: monotonic time of the last request.
    """

    folder: Path
    made: dict[int, Made] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=lambda: count(1))
    client: str = ""
    seen: float = field(default_factory=time.monotonic)

    @property
    def size(self) -> int:
        """Total size of all files in bytes."""
        return sum(one.size for one in self.made.values())

    def remove(self) -> None:
        """Remove everything."""
        self.remove_oldest(0)
        with suppress(OSError):  # missing if there are no results
            self.folder.rmdir()

    def remove_oldest(self, keep: int) -> None:
        """Remove all but the newest `keep` results."""
        for number in list(self.made)[: len(self.made) - keep]:
            if (made := self.made.pop(number, None)) is not None:  # another job may have removed it
                for file in (made.file, made.file.with_suffix(RECORD)):
                    file.unlink(missing_ok=True)


class Shelves:
    """Shelves of all people. Above the limits, the client with the most results loses the oldest ones.

    Args:
        folder: temporary folder, removed by its creator.
        model: name of the model as given.
        kept: results per person; older ones are dropped.
        most: maximum number of shelves.
        size: maximum bytes of all results.
    """

    def __init__(self, folder: Path, model: str, kept: int, most: int = 1000, size: int = 4 << 30):
        self.folder, self.model, self.kept, self.most, self.size = folder, model, kept, most, size
        self._shelves: OrderedDict[str, Shelf] = OrderedDict()  # least recently used first
        self._lock = threading.Lock()

    def of(self, person: str) -> Shelf:
        """Return a person's shelf; a temporary empty one if they have no results."""
        with self._lock:
            if person not in self._shelves:
                return self._new()
            self._shelves.move_to_end(person)
            self._shelves[person].seen = time.monotonic()
            return self._shelves[person]

    def set_up(self, person: str, client: str = "") -> Shelf:
        """Return a person's shelf, creating it if missing."""
        with self._lock:
            self._shelves.setdefault(person, self._new(client))
            while len(self._shelves) > self.most:
                self._shelves.pop(self._greediest(lambda shelf: 1, but=person)).remove()
        return self.of(person)

    def leave(self, person: str) -> None:
        """Remove a person's shelf."""
        with self._lock:
            shelf = self._shelves.pop(person, None)
        if shelf:
            shelf.remove()

    def remove_unused(self, seconds: float) -> None:
        """Remove shelves unused for this many seconds."""
        oldest = time.monotonic() - seconds
        with self._lock:
            people = [person for person, shelf in self._shelves.items() if shelf.seen < oldest]
        for person in people:
            self.leave(person)

    def _new(self, client: str = "") -> Shelf:
        """Create a shelf; its folder gets a new name, since person ids come from outside."""
        return Shelf(self.folder / secrets.token_hex(12), client=client)

    def _greediest(self, share: Callable[[Shelf], int], but: str | None = None) -> str:
        """Return the least recently active person of the client with the most. The lock must be held."""
        shares: Counter[str] = Counter()
        for shelf in self._shelves.values():
            shares[shelf.client] += share(shelf)
        client = shares.most_common(1)[0][0]
        of_client = (person for person, shelf in self._shelves.items() if shelf.client == client and share(shelf))
        return next((person for person in of_client if person != but), next(iter(self._shelves)))

    def _make_room(self) -> None:
        with self._lock:
            while (total := sum(shelf.size for shelf in self._shelves.values())) > self.size:
                shelf = self._shelves[self._greediest(lambda shelf: shelf.size)]
                while total > self.size and shelf.made:
                    total -= next(iter(shelf.made.values())).size
                    shelf.remove_oldest(len(shelf.made) - 1)

    def keep(self, job: StudioJob, filled: Mapping[str, Any]) -> list[int]:
        """Store a job's outputs on its person's shelf; return the numbers of the results, in order.

        Args:
            filled: inputs as plain JSON, for restoring them.
        """
        shelf = self.set_up(job.person, job.client)
        shelf.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        numbers = []
        for ask, output in zip(job.asks, job.outputs, strict=True):
            plan = {"layer_plan": lines(output.layer_plan)} if output.layer_plan else {}
            told = {STUDIO: {"tab": job.place, "fields": dict(filled), **plan}}
            for item in _in_order(output):
                numbers += self._put(shelf, job.place, item, ask.label, told)
        shelf.remove_oldest(min(self.kept, len(shelf.made)))
        self._make_room()
        return [number for number in numbers if number in shelf.made]

    def keep_sheet(self, job: StudioJob, sheet: Sheet) -> int:
        """Store all runs of a job as one sheet with its own record; return its number."""
        shelf, data = self.of(job.person), job.outputs[0].data
        texts = [line for output in job.outputs if sheet.image is None for line in lines_in(output)]
        return _shelve(shelf, f"{job.place}-sheet", data, sheet.image, "; ".join(texts), sheet.record, "all")

    def _put(self, shelf: Shelf, place: str, item: Output, label: str, told: Mapping[str, Any]) -> list[int]:
        settings, value = {**record(item, self.model), **told}, item.values[0]
        modality = MODALITIES[item.data]
        if modality.together:
            text = modality.line(value)
            return [_shelve(shelf, place, item.data, None, text, {"texts": [text], **settings}, label)]
        if not modality.embeds:
            return [_shelve_file(shelf, place, item, settings, label)]
        caption = _caption(settings)
        label = str(settings["index"] + 1) if caption else label  # match captions to images
        number = _shelve(shelf, place, item.data, value, caption, settings, label)
        if not caption:
            return [number]
        application = {**settings["application"], "result": "caption"}
        told = {"texts": [caption], **settings, "application": application}
        return [number, _shelve(shelf, place, "text", None, caption, told, label)]


def _shelve(
    shelf: Shelf, name: str, data: str, image: Image.Image | None, text: str, told: Mapping[str, Any], label: str
) -> int:
    """Write an image or a text with its record; return its number."""
    number = next(shelf.numbers)  # unique even if two jobs end at once
    file = shelf.folder / f"{name}-{number:04d}{'.json' if image is None else '.png'}"
    if image is None:
        file.write_text(as_document(dict(told)), encoding="utf-8")
    else:
        save_png(image, file, told)
    shelf.made[number] = Made(data, text, file, dict(told), label, file.stat().st_size)
    return number


def lines_in(output: Output) -> list[str]:
    """Return the values of an output as text."""
    modality = MODALITIES[output.data]
    return list(output.values) if modality.plain else [modality.line(value) for value in output.values]


def _shelve_file(shelf: Shelf, name: str, item: Output, told: Mapping[str, Any], label: str) -> int:
    """Write a value to a file with its record beside it; return its number."""
    number, modality = next(shelf.numbers), MODALITIES[item.data]
    file = shelf.folder / f"{name}-{number:04d}{modality.suffix}"
    with file.open("wb") as stream:
        write_value(item.data, item.values[0], stream, told)
    file.with_suffix(RECORD).write_text(as_document(dict(told)), encoding="utf-8")
    shelf.made[number] = Made(item.data, file.name, file, dict(told), label, file.stat().st_size)
    return number


def lines(plan: Sequence[Sequence[int]]) -> str:
    """Format a layer plan, one line per step."""
    return "\n".join(" ".join(map(str, row)) for row in plan)


def _caption(settings: Mapping[str, Any]) -> str:
    """Return the caption generated with an image by joint sampling; empty otherwise."""
    captions = settings.get("application", {}).get("captions", ())
    return one_line(captions[settings["index"]]) if captions else ""


def _in_order(output: Output) -> Sequence[Output]:
    """Return the items, best first if ranked (duplicates merged)."""
    places = [row.items[0] for row in output.ranking] or range(len(output))
    return [output[place] for place in places]
