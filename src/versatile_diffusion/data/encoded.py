"""Precomputed latents and context tokens: safetensors files, written part by part and read row by row."""

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
"""Maximum size of the index, which lists every item, in bytes."""
BEGUN = {
    "source": "another source",
    "made_by": "another model",
    "shapes": "other shapes",
    "long": "another --long",
    "crops": "another --crops",
}
"""Fields of the index that must match to resume an encoding."""
SETS = "sets"
"""Key in the index of a set with one subset per source shard: the folders of the subsets."""
NUMBER = re.compile(r"^part-(\d+)\.safetensors$")
NEEDED = {"parts": list, "made_by": dict, "finished": bool, "report": dict}
"""Required fields of an index and their types."""


@dataclass(frozen=True)
class EncodedSet:
    """An encoded set, as `encode_set` writes it."""

    folder: Path
    index: Mapping[str, Any]

    @classmethod
    def open(cls, folder: str | Path) -> EncodedSet:
        """Open the set in a folder.

        Raises:
            ValueError: no set, an incomplete one, or a damaged file.
        """
        path = Path(folder) / INDEX
        if not path.is_file():
            raise ValueError(f"{folder} has no {INDEX}; `versatile data encode` writes such a folder")
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
            raise ValueError(f"{error}; run `versatile data encode` again: only its items are encoded again") from error
        return encoded

    def __len__(self) -> int:
        return _count(self.index)

    @cached_property
    def parts(self) -> list[EncodedFile]:
        """The files of the set."""
        return [EncodedFile.open(self.folder, told) for told in self.index["parts"]]

    @property
    def keys(self) -> list[str]:
        """Names of the items in the source."""
        return [key for part in self.index["parts"] for key in part["keys"]]

    def rows(self, kind: str, modality: str, device: torch.device) -> Rows:
        """Latents or tokens of a modality.

        Raises:
            ValueError: not in this set.
        """
        name = f"{kind}.{modality}"
        if name not in self.index["made_by"]:
            raise ValueError(f"{self.folder} has no {name}; it has {', '.join(self.index['made_by'])}")
        return Rows([(part.rows[name], part.first[modality]) for part in self.parts], device)

    def check(self, bank: ModalityBank) -> None:
        """Check that this set was encoded with the codecs and context encoders of `bank`.

        Raises:
            ValueError: some differ; the message names them.
        """
        there = self.index["made_by"]
        wrong = [name for name, part in encoders_of(bank).items() if there.get(name) != maker_of(part)]
        if wrong:
            raise ValueError(
                f"{self.folder} was encoded with another model ({', '.join(wrong)}); encode it again with this one"
            )

    @property
    def outdated(self) -> str:
        """A warning if the source files still exist but have changed since; else an empty string."""
        source = self.index.get("source", "")
        try:
            now = open_source(source, self.index.get("encoding")).content if "content" in self.index else None
            same = now == self.index.get("content")
        except (ValueError, OSError):  # the source no longer exists
            same = True
        return (
            "" if same else f"{source} has changed since it was encoded; `versatile data encode` updates {self.folder}"
        )

    def looks(self, keys: Iterable[str]) -> list[Item]:
        """Original items among those with these names; all original items if there are none (sets of earlier versions
        kept the first items)."""
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
        crops: rows of each image: the image itself and random crops of it, the same ones each time.
        empty: whether a source without a good item may be.
    """

    part: int
    batch: int
    looks: int
    buckets: Buckets | None
    long: str
    crops: int
    empty: bool


ENCODE: EncodeOptions = {
    "part": 4096,
    "batch": 32,
    "looks": 12,
    "buckets": None,
    "long": "cut",
    "crops": 1,
    "empty": False,
}


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
    """Encode every item of a source into `out`. Called again, it resumes after the last complete part; if source files
    or parts have changed, only missing items are encoded.

    Args:
        source: read once, in the order of its shards.
        bank: its codecs compute the latents, its context encoders the tokens, for every modality of the bank.
        out: folder for `encoded.json`, `part-00000.safetensors`, ... and `looks/` (original items).
        report: counts what is skipped.
        journal: detects samples that crash the process.
        progress: called with the number of items so far.
        options: see `EncodeOptions`.

    Raises:
        ValueError: `out` belongs to another model or source, too many samples are bad, or none is usable.
        OSError: the disk is full; complete parts are kept.
    """
    how: EncodeOptions = {**ENCODE, **options}
    report, journal, done = report or Report(), journal or Journal(None), 0
    with writing(out, lambda: f"the first {done} items are kept"):
        out.mkdir(parents=True, exist_ok=True)
        index, known = _resume(out, made_from(source, bank, how["buckets"], how["long"], how["crops"]), report)
        if index["finished"]:
            return EncodedSet.open(out)
        done = _count(index)
        report = Report(**{**index["report"], "allowed": report.allowed, "few": report.few})
        kept = Looks(out / FOLDER, how["looks"])
        encoder = ItemEncoder(bank, how["batch"], how["long"], report, how["crops"])
        taking = Taking(encoder, kept, known, how["buckets"], journal)
        taken = source.walk(taking.take, Position(**index["position"]), report)
        while position := taking.fill(taken, how["part"]):
            for shape, entries in taking.drain().items():
                index["parts"].append(_write_part(out, index, shape, entries))
            index |= {"position": asdict(position), "report": report.to_json()}
            _write_index(out, index)
            progress(done := _count(index))
        if not index["parts"] and not how["empty"]:
            raise ValueError(f"{source.path} has no usable image with a caption: {report}{report.hint}")
        _finish(out, index | {"finished": True, "report": report.to_json()})
        journal.end()
    return EncodedSet.open(out)


def made_from(
    source: Source, bank: ModalityBank, buckets: Buckets | None = None, long: str = "cut", crops: int = 1
) -> dict[str, Any]:
    """Fields of the index of a set that identify how it is made."""
    return {
        "source": str(source.path.resolve()),
        "content": source.content,
        "encoding": source.encoding,
        "made_by": {name: maker_of(part) for name, part in encoders_of(bank).items()},
        "shapes": None if buckets is None else [list(shape) for shape in buckets.shapes],
        "long": long,
        "crops": crops,
    }


def _resume(out: Path, made: Mapping[str, Any], report: Report) -> tuple[dict[str, Any], dict[tuple[str, str], Known]]:
    """The index to go on with, and what is encoded already of what is yet to come."""
    fresh = dict(made)
    fresh |= {"parts": [], "before": [], "position": asdict(Position()), "finished": False, "report": report.to_json()}
    if not (out / INDEX).is_file():
        return fresh, {}
    try:
        older = {"long": made["long"], "crops": 1, "content": "", "before": []}  # absent in earlier versions
        index: dict[str, Any] = {**dict.fromkeys(fresh), **older, **read_index(out / INDEX)}
    except ValueError as error:
        warnings.warn(f"{error}; everything is encoded again", stacklevel=1)
        return fresh, {}
    if other := [words for name, words in BEGUN.items() if index.get(name) != fresh[name]]:
        raise ValueError(f"{out} was started with {' and '.join(other)}; use another folder, or delete it")
    sound, damaged = _open_parts(out, [*index["parts"], *index["before"]])
    known = {
        (key, content): Known(part, number)
        for part in reversed(sound)
        for number, (key, content) in enumerate(zip(part.told["keys"], part.told.get("contents", ()), strict=False))
    }
    if index["content"] == fresh["content"] and not damaged:
        return index, known
    changed = f"{made['source']} has changed" if index["content"] else f"{out} does not list its source files"
    why = [*damaged, *([] if index["content"] == fresh["content"] else [changed])]
    warnings.warn(f"{'; '.join(why)}: items that are new or missing in {out} are encoded again", stacklevel=1)
    for path in (out / FOLDER).glob("*"):
        path.unlink()
    return fresh | {"before": [dict(part.told) for part in sound if "contents" in part.told]}, known


def _open_parts(out: Path, told: Iterable[Mapping[str, Any]]) -> tuple[list[EncodedFile], list[str]]:
    """The intact parts, and error messages for the others."""
    sound, damaged = [], []
    for part in told:
        try:
            sound.append(EncodedFile.open(out, part))
        except DamagedError as error:
            damaged.append(str(error))
    return sound, damaged


def _write_part(out: Path, index: Mapping[str, Any], shape: Shape | None, entries: list[Entry]) -> dict[str, Any]:
    """Write a new file, or reuse an existing one with exactly these items."""
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
    """Write the index of a complete set, then delete files that are not in it."""
    _write_index(out, index | {"before": []})
    mine = {part["file"] for part in index["parts"]}
    for file in out.glob("part-*.safetensors"):
        if file.name not in mine:
            file.unlink()


def _write_index(out: Path, index: Mapping[str, Any]) -> None:
    text = json.dumps(index, ensure_ascii=False, indent=1) + "\n"
    write_whole(out / INDEX, lambda path: path.write_text(text, encoding="utf-8"))


def read_index(path: Path) -> dict[str, Any]:
    """Read an index.

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
        raise DamagedError(path, f"one of {', '.join(NEEDED)} is missing, or a file name leaves the folder")
    return index


def _count(index: Mapping[str, Any]) -> int:
    return sum(len(part["keys"]) for part in index["parts"])
