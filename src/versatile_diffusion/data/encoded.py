"""Items as latents and context tokens, computed once: safetensors files, written part by part and read row by row."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch
from safetensors.torch import save_file
from torch import Tensor

from versatile_diffusion.data.buckets import Buckets, Shape
from versatile_diffusion.data.encoder import LATENTS, LONG, TOKENS, Entry, ItemEncoder, Known, Taking, encoders_of
from versatile_diffusion.data.journal import Journal
from versatile_diffusion.data.looks import FOLDER, Looks, rank
from versatile_diffusion.data.report import Report
from versatile_diffusion.data.rows import SUMS, DamagedError, EncodedFile, Rows, checksums
from versatile_diffusion.data.sources import Item, Position, Source, open_source, others_of
from versatile_diffusion.files import write_whole, writing
from versatile_diffusion.modalities.bank import ModalityBank
from versatile_diffusion.reading import read_json
from versatile_diffusion.records.embeddings import maker_of

__all__ = ["LATENTS", "LONG", "TOKENS", "EncodedSet", "encode_set", "rank"]

INDEX = "encoded.json"
MOST_INDEX = 1 << 30
"""Bytes of the index, which has the name of every item."""
BEGUN = {"source": "another source", "made_by": "another model", "shapes": "other shapes", "long": "another --long"}
"""What an encoding that goes on must not differ in."""
SETS = "sets"
"""In the index of a set that is made of sets, one for each shard of its source: their folders."""
NUMBER = re.compile(r"^part-(\d+)\.safetensors$")
NEEDED = {"parts": list, "made_by": dict, "finished": bool, "report": dict}
"""What an index must hold."""


@dataclass(frozen=True)
class EncodedSet:
    """What `encode_set` wrote into a folder."""

    folder: Path
    index: Mapping[str, Any]

    @classmethod
    def open(cls, folder: str | Path) -> EncodedSet:
        """The set in a folder.

        Raises:
            ValueError: there is none, it was not written to its end, or a file of it is damaged.
        """
        path = Path(folder) / INDEX
        if not path.is_file():
            raise ValueError(f"{folder} holds no {INDEX}; `versatile data encode` writes such a folder")
        index = read_index(path)
        for name in index.get(SETS, []):
            parts = read_index(Path(folder) / name / INDEX)["parts"]
            index["parts"] += [part | {"file": f"{name}/{part['file']}"} for part in parts]
        if not index["finished"]:
            raise ValueError(f"{folder} is not complete ({_count(index)} items); run `versatile data encode` again")
        encoded = cls(Path(folder), index)
        try:
            _ = encoded.parts
        except DamagedError as error:
            raise ValueError(
                f"{error}; run the command that made it again: its items alone are encoded anew"
            ) from error
        return encoded

    def __len__(self) -> int:
        return _count(self.index)

    @cached_property
    def parts(self) -> list[EncodedFile]:
        """The files."""
        return [EncodedFile.open(self.folder, told) for told in self.index["parts"]]

    @property
    def keys(self) -> list[str]:
        """The items by their names in the source."""
        return [key for part in self.index["parts"] for key in part["keys"]]

    def rows(self, kind: str, modality: str, device: torch.device) -> Rows:
        """Latents or tokens of a modality.

        Raises:
            ValueError: the set has none.
        """
        name = f"{kind}.{modality}"
        if name not in self.index["made_by"]:
            raise ValueError(f"{self.folder} has no {name}; it has {', '.join(self.index['made_by'])}")
        return Rows([(part.rows[name], part.first[modality]) for part in self.parts], device)

    def check(self, bank: ModalityBank) -> None:
        """Refuses a set that other codecs or context encoders made.

        Raises:
            ValueError: they are others; it says which.
        """
        there = self.index["made_by"]
        wrong = [name for name, part in encoders_of(bank).items() if there.get(name) != maker_of(part)]
        if wrong:
            raise ValueError(
                f"{self.folder} was encoded by another model ({', '.join(wrong)}); encode it anew with this one"
            )

    @property
    def outdated(self) -> str:
        """What to say where the files that it was made of are still there, and have changed since; else nothing."""
        source = self.index.get("source", "")
        try:
            now = open_source(source, self.index.get("encoding")).content if "content" in self.index else None
            same = now == self.index.get("content")
        except (ValueError, OSError):  # they are not there any more
            same = True
        return (
            "" if same else f"{source} has changed since it was encoded; `versatile data encode` renews {self.folder}"
        )

    def looks(self, keys: Iterable[str]) -> list[Item]:
        """Those of the items with these names that were kept as they were; the first items of all, which sets of
        earlier versions kept, if none was."""
        others = others_of(name.split(".")[1] for name in self.index["made_by"])
        kept = [item for item, _ in open_source(self.folder / FOLDER).read(others=others)]
        names = {f"{rank(key)}.png" for key in keys}
        return [item for item in kept if item.key in names] or kept


class EncodeOptions(TypedDict, total=False):
    """How items are encoded; `ENCODE` has the defaults.

    Args:
        part: items per file.
        batch: values that are encoded together.
        looks: how many items to keep as they were, the first by `rank`.
        buckets: the shapes that images are cropped to, each to the nearest; the codec's own size if None.
        long: what becomes of captions that are longer than the context encoder reads, one of `LONG`.
        empty: whether a source without a good item may be.
    """

    part: int
    batch: int
    looks: int
    buckets: Buckets | None
    long: str
    empty: bool


ENCODE: EncodeOptions = {"part": 4096, "batch": 32, "looks": 12, "buckets": None, "long": "cut", "empty": False}


def encode_set(
    source: Source,
    bank: ModalityBank,
    out: Path,
    *,
    report: Report | None = None,
    journal: Journal | None = None,
    progress: Callable[[int], None] = lambda items: None,
    **options: Unpack[EncodeOptions],
) -> EncodedSet:
    """Encodes every item of a source into `out`. Called again, it goes on after the last part that was written; where
    files of the source, or parts, have changed since, only what is not there is encoded.

    Args:
        source: read once, in the order of its shards.
        bank: its codecs make the latents, its context encoders the tokens, of all modalities that they have.
        out: folder for `encoded.json`, `part-00000.safetensors`, ... and `looks/`, items as they were.
        report: counts what is skipped.
        journal: finds samples that end the process.
        progress: told the number of items so far.
        options: see `EncodeOptions`.

    Raises:
        ValueError: `out` was begun by another model or from another source, too much is bad, or nothing is good.
        OSError: the disk is full; what is written stays.
    """
    how: EncodeOptions = {**ENCODE, **options}
    report, journal, done = report or Report(), journal or Journal(None), 0
    with writing(out, lambda: f"the first {done} items stay"):
        out.mkdir(parents=True, exist_ok=True)
        index, known = _begun(out, source, bank, how["buckets"], how["long"], report)
        if index["finished"]:
            return EncodedSet.open(out)
        done = _count(index)
        report = Report(**{**index["report"], "allowed": report.allowed, "few": report.few})
        kept = Looks(out / FOLDER, how["looks"])
        taking = Taking(ItemEncoder(bank, how["batch"], how["long"], report), kept, known, how["buckets"], journal)
        taken = source.walk(taking.take, Position(**index["position"]), report)
        while position := taking.fill(taken, how["part"]):
            for shape, entries in taking.drain().items():
                index["parts"].append(_write_part(out, index, shape, entries))
            index |= {"position": asdict(position), "report": report.to_json()}
            _write_index(out, index)
            done = _count(index)
            progress(done)
        if not index["parts"] and not how["empty"]:
            raise ValueError(f"{source.path} holds no good picture with a caption: {report}{report.hint}")
        _finish(out, index | {"finished": True, "report": report.to_json()})
        journal.end()
    return EncodedSet.open(out)


def _begun(
    out: Path, source: Source, bank: ModalityBank, buckets: Buckets | None, long: str, report: Report
) -> tuple[dict[str, Any], dict[tuple[str, str], Known]]:
    """The index to go on with, and what is encoded already of what is yet to come."""
    fresh: dict[str, Any] = {
        "source": str(source.path.resolve()),
        "content": source.content,
        "encoding": source.encoding,
        "made_by": {name: maker_of(part) for name, part in encoders_of(bank).items()},
        "shapes": None if buckets is None else [list(shape) for shape in buckets.shapes],
        "long": long,
    }
    fresh |= {"parts": [], "before": [], "position": asdict(Position()), "finished": False, "report": report.to_json()}
    if not (out / INDEX).is_file():
        return fresh, {}
    try:
        older = {"long": long, "content": "", "before": []}  # which older ones lack
        index: dict[str, Any] = {**dict.fromkeys(fresh), **older, **read_index(out / INDEX)}
    except ValueError as error:
        warnings.warn(f"{error}; all is encoded anew", stacklevel=1)
        return fresh, {}
    if other := [words for name, words in BEGUN.items() if index.get(name) != fresh[name]]:
        raise ValueError(f"{out} was begun with {' and '.join(other)}; give another folder, or delete it")
    sound, damaged = _opened(out, [*index["parts"], *index["before"]])
    known = {
        (key, content): Known(part, number)
        for part in reversed(sound)
        for number, (key, content) in enumerate(zip(part.told["keys"], part.told.get("contents", ()), strict=False))
    }
    if index["content"] == fresh["content"] and not damaged:
        return index, known
    changed = f"{source.path} has changed" if index["content"] else f"{out} does not say which files it was made of"
    why = [*damaged, *([] if index["content"] == fresh["content"] else [changed])]
    warnings.warn(f"{'; '.join(why)}: what is not in {out} any more, or new, is encoded anew", stacklevel=1)
    for path in (out / FOLDER).glob("*"):
        path.unlink()
    return fresh | {"before": [dict(part.told) for part in sound if "contents" in part.told]}, known


def _opened(out: Path, told: Iterable[Mapping[str, Any]]) -> tuple[list[EncodedFile], list[str]]:
    """The parts that are as they were written, and what is wrong with the others."""
    sound, damaged = [], []
    for part in told:
        try:
            sound.append(EncodedFile.open(out, part))
        except DamagedError as error:
            damaged.append(str(error))
    return sound, damaged


def _write_part(out: Path, index: Mapping[str, Any], shape: Shape | None, entries: list[Entry]) -> dict[str, Any]:
    """A new file; or one that is there already with just these items."""
    told = {"keys": [e.key for e in entries], "contents": [e.content for e in entries], "shape": shape and list(shape)}
    before: list[dict[str, Any]] = index["before"]
    for part in before:
        if part | told == part and part not in index["parts"]:
            return part
    taken = [int(number) for part in (*index["parts"], *index["before"]) for number in NUMBER.findall(part["file"])]
    name = f"part-{max(taken, default=-1) + 1:05d}.safetensors"
    tensors: dict[str, Tensor] = {}
    for kind in entries[0].rows or {}:
        counts = [len((entry.rows or {})[kind]) for entry in entries]
        rows = [row for entry in entries for row in (entry.rows or {})[kind]]
        tensors[f"first.{kind.split('.')[1]}"] = torch.tensor([0, *counts]).cumsum(0)
        tensors |= {kind: torch.stack(rows), SUMS + kind: checksums(rows)}
    write_whole(out / name, partial(save_file, tensors))
    return {"file": name, **told}


def _finish(out: Path, index: dict[str, Any]) -> None:
    """Writes the index of a whole set; then deletes what is not in it."""
    _write_index(out, index | {"before": []})
    mine = {part["file"] for part in index["parts"]}
    for file in out.glob("part-*.safetensors"):
        if file.name not in mine:
            file.unlink()


def _write_index(out: Path, index: Mapping[str, Any]) -> None:
    text = json.dumps(index, ensure_ascii=False, indent=1) + "\n"
    write_whole(out / INDEX, lambda path: path.write_text(text, encoding="utf-8"))


def read_index(path: Path) -> dict[str, Any]:
    """What an index says.

    Raises:
        ValueError: it is damaged.
    """
    try:
        index = read_json(path, MOST_INDEX)
        right = all(isinstance(index[name], kind) for name, kind in NEEDED.items())
        right &= all(Path(part["file"]).name == part["file"] and part["keys"] for part in index["parts"])
        Position(**index["position"])
        Report(**index["report"])
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise DamagedError(path, error) from error
    if not right:
        raise DamagedError(path, f"it lacks one of {', '.join(NEEDED)}, or names files that are not beside it")
    return index


def _count(index: Mapping[str, Any]) -> int:
    return sum(len(part["keys"]) for part in index["parts"])
