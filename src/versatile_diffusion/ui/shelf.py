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
        text: of a text, or of what belongs to a picture; empty where there is none.
        file: the PNG of a picture, the JSON of a text.
        record: the settings that make it again.
        label: what tells it from its neighbours.
    """

    data: str
    text: str
    file: Path
    record: dict[str, Any]
    label: str = ""


@dataclass(frozen=True)
class Sheet:
    """All runs of a job together.

    Args:
        record: of all of them, as `versatile sweep` writes it.
        picture: a labelled sheet, of pictures.
        table: HTML, of texts.
    """

    record: dict[str, Any]
    picture: Image.Image | None = None
    table: str = ""


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
        numbers = []
        for ask, output in zip(job.asks, job.outputs, strict=True):
            plan = {"layer_plan": lines(output.layer_plan)} if output.layer_plan else {}
            told = {STUDIO: {"tab": job.place, "fields": dict(filled), **plan}}
            for item in _in_order(output):
                numbers += self._put(shelf, job.place, item, ask.label, told)
        for old in list(shelf.made)[: -self.kept]:
            shelf.made.pop(old).file.unlink(missing_ok=True)
        return numbers

    def keep_sheet(self, job: Job, sheet: Sheet) -> int:
        """All runs of a job together, with a record of its own; its number."""
        shelf, data = self.of(job.person), job.outputs[0].data
        texts = [text for output in job.outputs if data == "text" for text in output.texts]
        return _shelved(shelf, f"{job.place}-sheet", data, sheet.picture, "; ".join(texts), sheet.record, "all of them")

    def _put(self, shelf: Shelf, place: str, item: Output, label: str, told: Mapping[str, Any]) -> list[int]:
        settings, value = {**record(item, self.model), **told}, item.values[0]
        if not isinstance(value, Image.Image):
            text = one_line(str(value))
            return [_shelved(shelf, place, item.data, None, text, {"texts": [text], **settings}, label)]
        caption = _caption(settings)
        label = str(settings["index"] + 1) if caption else label  # which caption belongs to which picture
        number = _shelved(shelf, place, item.data, value, caption, settings, label)
        if not caption:
            return [number]
        application = {**settings["application"], "result": "caption"}
        told = {"texts": [caption], **settings, "application": application}
        return [number, _shelved(shelf, place, "text", None, caption, told, label)]


def _shelved(
    shelf: Shelf, name: str, data: str, picture: Image.Image | None, text: str, told: Mapping[str, Any], label: str
) -> int:
    """Writes a picture, or a text, with its record; its number."""
    shelf.count += 1
    file = shelf.folder / f"{name}-{shelf.count:04d}{'.json' if picture is None else '.png'}"
    if picture is None:
        file.write_text(json.dumps(dict(told), ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    else:
        save_png(picture, file, told)
    shelf.made[shelf.count] = Made(data, text, file, dict(told), label)
    return shelf.count


def lines(plan: Sequence[Sequence[int]]) -> str:
    """A layer plan as people write it: a line for each step."""
    return "\n".join(" ".join(map(str, row)) for row in plan)


def _caption(settings: Mapping[str, Any]) -> str:
    """What was made along with a picture by joint sampling; empty otherwise."""
    captions = settings.get("application", {}).get("captions", ())
    return one_line(captions[settings["index"]]) if captions else ""


def _in_order(output: Output) -> Sequence[Output]:
    """The items, best first where they were ranked (duplicates merged)."""
    places = [row.items[0] for row in output.ranking] or range(len(output))
    return [output[place] for place in places]
