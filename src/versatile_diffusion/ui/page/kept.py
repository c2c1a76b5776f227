"""Results kept in a folder: saved when they are generated, and read again after a reload or a restart."""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from versatile_diffusion.cli.io.files import next_number, numbered_names, save_new
from versatile_diffusion.cli.io.results import RECORD
from versatile_diffusion.files import write_json
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.records.png import read_record
from versatile_diffusion.ui.page.shelf import Made

INDEX = ".studio.json"
OWNER, FAVOURITE = "owner", "favourite"
MOST_FILES = 20_000
"""Files that are looked at in a folder; a gallery of more is not useful."""
LONGEST = 120
"""Characters of a caption."""


def owner_of(identity: str) -> str:
    """Return what the index stores of a browser or a login: not the name itself, which admits to its results."""
    return hashlib.sha256(identity.encode()).hexdigest()[:24]


@dataclass(frozen=True)
class KeptFile:
    """A file of the folder. Args: name: path below the folder. made: the result. owner, favourite: from the index."""

    name: str
    made: Made
    owner: str
    favourite: bool


class Kept:
    """Saved results.

    Args:
        folder: created with the first result.
        cache: folder of the studio from which the page may read; files are copied there when they are shown.
        shared: whether everyone sees all results; otherwise each visitor sees only their own.
    """

    def __init__(self, folder: Path, cache: Path, shared: bool = True):
        self.folder, self.cache, self.shared = folder, cache / secrets.token_hex(12), shared
        self._texts: dict[str, tuple[tuple[float, int], str | None]] = {}
        self._lock = threading.Lock()

    def save(self, made: Made, owner: str, today: date | None = None) -> Path:
        """Copy a result and its record into the folder of the day, under a free name; return the file."""
        stem = made.file.stem.rpartition("-")[0] or made.file.stem
        day = self.folder / str(today or date.today())
        sources = [made.file, made.file.with_suffix(RECORD)]
        sources = sources if made.file.suffix != RECORD and sources[1].exists() else sources[:1]
        names = numbered_names(day, stem, next_number(day, stem), *(source.suffix for source in sources))
        file, *_ = save_new(names, *((lambda stream, s=source: stream.write(s.read_bytes())) for source in sources))
        self._note(self._name(file), {OWNER: owner})
        return file

    def entries(self, owner: str, only: str = "", search: str = "") -> Iterator[KeptFile]:
        """Yield the results that a visitor may see, newest first.

        Args:
            owner: the visitor, see `owner_of`.
            only: `own` or `favourites`; anything else yields all.
            search: words that the prompt or caption must contain.
        """
        index, words = self._index(), search.lower().split()
        for file in self._files():
            name = self._name(file)
            noted = index.get(name, {})
            if only == "favourites" and noted.get(FAVOURITE) is not True:
                continue
            if not self._may_see(noted, owner) or (only == "own" and noted.get(OWNER) != owner):
                continue
            text = self._text(name)
            if text is not None and all(word in text.lower() for word in words):
                entry = self._entry(name, noted)
                if entry is not None:
                    yield entry

    def get(self, name: str, owner: str) -> KeptFile | None:
        """Return a result by name; None if it is gone or not to be seen by this visitor."""
        noted = self._index().get(name, {})
        return self._entry(name, noted) if self._inside(name) and self._may_see(noted, owner) else None

    def shown(self, made: Made) -> Made:
        """Return a result whose file the page may read: a copy in the cache."""
        copy = self._copy(made.file)
        if not copy.exists() or copy.stat().st_mtime < made.file.stat().st_mtime:
            copy.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            shutil.copyfile(made.file, copy)
        return Made(made.data, made.text, copy, made.record, made.label, made.size)

    def favour(self, entry: KeptFile, favourite: bool) -> None:
        """Mark a result as a favourite, or no longer."""
        self._note(entry.name, {FAVOURITE: favourite})

    def delete(self, entry: KeptFile) -> None:
        """Delete a result with its record and its copies."""
        for file in (entry.made.file, *([entry.made.file.with_suffix(RECORD)] if _has_record(entry.made.file) else [])):
            file.unlink(missing_ok=True)
        self._copy(entry.made.file).unlink(missing_ok=True)
        self._note(entry.name, None)

    def _copy(self, file: Path) -> Path:
        """Return where `shown` puts the copy of a file."""
        return self.cache / hashlib.sha256(str(file).encode()).hexdigest()[:16] / file.name

    def _may_see(self, noted: Mapping[str, Any], owner: str) -> bool:
        return self.shared or noted.get(OWNER) == owner

    def _inside(self, name: str) -> bool:
        """Return whether a name is a file below the folder, however it was written."""
        file = (self.folder / name).resolve()
        return file.is_relative_to(self.folder.resolve()) and file.is_file()

    def _files(self) -> list[Path]:
        """Return the files that can be results, newest first: those of the folder and of its folders of days."""
        found = []
        for file in (*self.folder.glob("*.*"), *self.folder.glob("*/*.*")):
            if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file():
                found.append((file.stat().st_mtime_ns, str(file), file))
            if len(found) >= MOST_FILES:
                break
        return [file for *_, file in sorted(found, reverse=True)]

    def _name(self, file: Path) -> str:
        return file.relative_to(self.folder).as_posix()

    def _text(self, name: str) -> str | None:
        """Return what is searched of a result, which is all that is kept of it in memory; None if it is no result."""
        try:
            state = (self.folder / name).stat()
        except OSError:  # deleted meanwhile
            return None
        stamp = (state.st_mtime, state.st_size)
        if self._texts.get(name, (None,))[0] != stamp:
            made = _read_result(self.folder / name)
            self._texts[name] = stamp, None if made is None else made.text
        return self._texts[name][1]

    def _entry(self, name: str, noted: Mapping[str, Any]) -> KeptFile | None:
        made = _read_result(self.folder / name)
        return None if made is None else KeptFile(name, made, str(noted.get(OWNER, "")), noted.get(FAVOURITE) is True)

    def _index(self) -> dict[str, dict[str, Any]]:
        try:
            files = json.loads((self.folder / INDEX).read_text(encoding="utf-8"))["files"]
            return {name: noted for name, noted in files.items() if isinstance(noted, dict)}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return {}  # missing, or damaged: then nothing is a favourite

    def _note(self, name: str, noted: Mapping[str, Any] | None) -> None:
        """Change a file's row of the index; None removes it."""
        with self._lock:
            index = self._index()
            index[name] = {**index.get(name, {}), **(noted or {})}
            if noted is None:
                del index[name]
            write_json(self.folder / INDEX, {"files": index})


SUFFIXES = frozenset(
    suffix for record in MODALITIES.values() if record.write is not None for suffix in (record.suffix, RECORD)
)


def _has_record(file: Path) -> bool:
    modality = MODALITIES.of_suffix(file.suffix)
    return modality is not None and not modality.embeds and file.suffix != RECORD


def _read_result(file: Path) -> Made | None:
    """Read a result; None if it is not one of this library."""
    try:
        (record, data), size = _record(file), file.stat().st_size
    except (OSError, ValueError):
        return None
    texts = record.get("texts")
    text = str(texts[0]) if isinstance(texts, list) and texts else str(record.get("prompt") or "")
    if not text:
        text = next(iter(_prompts(record)), "")
    text = text or str(record.get("task") or file.stem).replace("-", " ").capitalize()
    return Made(data, text[:LONGEST], file, record, size=size)


def _record(file: Path) -> tuple[dict[str, Any], str]:
    """Return a file's record and modality; ValueError if it has none."""
    if file.suffix.lower() != RECORD:
        modality = MODALITIES.of_suffix(file.suffix)
        if modality is None:
            raise ValueError("not a result")
        if modality.embeds:
            return read_record(str(file)), modality.name
        return dict(json.loads(file.with_suffix(RECORD).read_text(encoding="utf-8"))), modality.name
    record = json.loads(file.read_text(encoding="utf-8"))
    texts = record.get("texts") if isinstance(record, dict) else None
    if not isinstance(texts, list) or any(file.with_suffix(suffix).exists() for suffix in SUFFIXES - {RECORD}):
        raise ValueError("not texts, or the record of another file")
    return record, next(name for name, modality in MODALITIES.items() if modality.together)


def _prompts(record: Mapping[str, Any]) -> Iterator[str]:
    """Yield the texts that conditioned a result."""
    for condition in record.get("conditions") or ():
        values = condition.get("values") if isinstance(condition, Mapping) else None
        if isinstance(values, list) and values and isinstance(values[0], str):
            yield values[0]
