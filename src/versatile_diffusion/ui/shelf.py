"""What people made, kept for the session: pictures as PNG files with their settings inside, texts with theirs."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from versatile_diffusion.cli.results import one_line, record
from versatile_diffusion.sampling.metadata import save_png
from versatile_diffusion.sampling.output import Output
from versatile_diffusion.ui.jobs import Job

STUDIO = "studio"
"""In a record: the tab that an output came from, and what was filled in there."""


@dataclass(frozen=True)
class Made:
    """One result.

    Args:
        data: its modality.
        text: of a text; what tells a picture from its neighbours.
        file: the PNG of a picture, the JSON of a text.
        record: the settings that make it again.
    """

    data: str
    text: str
    file: Path
    record: dict[str, Any]


@dataclass
class Shelf:
    """What one person made, oldest first, and what they made it from.

    Args:
        folder: for the files, of this person alone.
        made: by a number that stays.
        inputs: uploaded pictures by what settings call them.
    """

    folder: Path
    made: dict[int, Made] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    count: int = 0


class Shelves:
    """The shelves of all people.

    Args:
        folder: temporary; whoever made it removes it.
        model: how the model was asked for.
        kept: results of a person; older ones are thrown away.
    """

    def __init__(self, folder: Path, model: str, kept: int):
        self.folder, self.model, self.kept = folder, model, kept
        self._shelves: dict[str, Shelf] = {}
        self._lock = threading.Lock()

    def of(self, person: str) -> Shelf:
        """Somebody's shelf. Folders have names of their own, since those of people come from outside."""
        with self._lock:
            if person not in self._shelves:
                self._shelves[person] = Shelf(self.folder / secrets.token_hex(12))
            return self._shelves[person]

    def leave(self, person: str) -> None:
        """Removes all that somebody made."""
        with self._lock:
            shelf = self._shelves.pop(person, None)
        for made in shelf.made.values() if shelf else ():
            made.file.unlink(missing_ok=True)

    def keep(self, job: Job, filled: Mapping[str, Any]) -> list[int]:
        """Puts the outputs of a job on its person's shelf; numbers of the results, in order.

        Args:
            filled: what was filled in, plain JSON, for restoring it.
        """
        shelf = self.of(job.person)
        shelf.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        told = {STUDIO: {"tab": job.place, "fields": dict(filled)}}
        numbers = []
        for ask, output in zip(job.asks, job.outputs, strict=True):
            for item in _in_order(output):
                numbers.append(self._put(shelf, job.place, item, ask.label, told))
        for old in list(shelf.made)[: -self.kept]:
            shelf.made.pop(old).file.unlink(missing_ok=True)
        return numbers

    def keep_sheet(self, job: Job, picture: Image.Image, told: Mapping[str, Any]) -> int:
        """A picture of all runs of a job together, with a record of its own; its number."""
        shelf = self.of(job.person)
        shelf.count += 1
        file = shelf.folder / f"{job.place}-sheet-{shelf.count:04d}.png"
        save_png(picture, file, told)
        shelf.made[shelf.count] = Made("image", "all of them", file, dict(told))
        return shelf.count

    def _put(self, shelf: Shelf, place: str, item: Output, label: str, told: Mapping[str, Any]) -> int:
        shelf.count += 1
        settings = {**record(item, self.model), **told}
        value = item.values[0]
        stem = shelf.folder / f"{place}-{shelf.count:04d}"
        if isinstance(value, Image.Image):
            file, text = stem.with_suffix(".png"), label
            save_png(value, file, settings)
        else:
            file, text = stem.with_suffix(".json"), one_line(str(value))
            content = {"texts": [text], **settings}
            file.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        shelf.made[shelf.count] = Made(item.data, text, file, settings)
        return shelf.count


def _in_order(output: Output) -> Sequence[Output]:
    """The items, best first where they were ranked (duplicates merged)."""
    places = [row.items[0] for row in output.ranking] or range(len(output))
    return [output[place] for place in places]
