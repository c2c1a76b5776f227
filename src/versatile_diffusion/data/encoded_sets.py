"""Encode many shards, one encoded set per shard, in this process or with Ray actors. Both treat a shard alike, so both
write the same bytes."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from versatile_diffusion.data.encoded import INDEX, SETS, EncodedSet, encode_set, made_from, read_index
from versatile_diffusion.data.journal import Journal
from versatile_diffusion.data.looks import FOLDER, RANK_LENGTH
from versatile_diffusion.data.places import Spread, in_turn
from versatile_diffusion.data.report import MOST_EXAMPLES, Report
from versatile_diffusion.data.shards import Metadata, TextFiles
from versatile_diffusion.data.sources import Position, Source
from versatile_diffusion.files import write_json
from versatile_diffusion.modalities.bank import ModalityBank
from versatile_diffusion.pipeline.pipeline import VersatileDiffusionPipeline

JOURNAL = "at.json"


@dataclass
class EncodeShard:
    """Encode a shard by its number; the model is loaded on first use.

    Args:
        source: all shards.
        load: returns the codecs and context encoders, on their device.
        out: the output folder.
        options: of `encode_set`.
        allowed: share of a shard's samples that may be bad.
        threads: torch threads; rounding depends on them.
    """

    source: Source
    load: Callable[[], ModalityBank]
    out: Path
    options: Mapping[str, Any] = field(default_factory=dict)
    allowed: float = 0.05
    threads: int = field(default_factory=torch.get_num_threads)

    @cached_property
    def bank(self) -> ModalityBank:
        return self.load()

    def __getstate__(self) -> dict[str, Any]:
        """State without the model, which every process loads itself."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    def folder(self, number: int) -> Path:
        return self.out / f"{number:05d}"

    def alone(self, number: int) -> Source:
        """A source with one shard only."""
        return replace(self.source, shards=(self.source.shards[number],))

    def __call__(self, number: int) -> None:
        torch.set_num_threads(self.threads)
        folder = self.folder(number)
        folder.mkdir(parents=True, exist_ok=True)
        journal, report = Journal(folder / JOURNAL), Report(self.allowed)
        encode_set(self.alone(number), self.bank, folder, report=report, journal=journal, empty=True, **self.options)

    def finished(self, number: int) -> bool:
        """Whether a shard is encoded and unchanged since."""
        try:
            index = read_index(self.folder(number) / INDEX)
        except (ValueError, OSError):
            return False
        options = {name: self.options[name] for name in ("buckets", "long", "crops") if name in self.options}
        made = made_from(self.alone(number), self.bank, **options)
        there = {"crops": 1, **index}
        return bool(index["finished"]) and all(there.get(name) == made[name] for name in made if name != "source")


def encode_shards(
    work: EncodeShard,
    looks: int = 12,
    spread: Spread = in_turn,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> EncodedSet:
    """Encode every shard of a source into its own set, and write the index of all. Called again, it continues with the
    unfinished shards.

    Args:
        work: encodes one shard.
        looks: number of original items to keep over all shards.
        spread: where shards are processed, see `data.places`.
        progress: called with the number of finished shards and the total.

    Raises:
        ValueError: too many bad samples, no usable one, or the folder belongs to another encoding.
        OSError: the disk is full; complete parts are kept.
    """
    numbers = range(len(work.source.shards))
    left = [number for number in numbers if not work.finished(number)]
    for done, _ in enumerate(spread(work, left), len(numbers) - len(left) + 1):
        progress(done, len(numbers))
    indices = [read_index(work.folder(number) / INDEX) for number in numbers]
    report = summed_up([Report(**index["report"]) for index in indices], work.allowed)
    if not report.good:
        raise ValueError(f"{work.source.path} has no usable image with a caption: {report}{report.hint}")
    names = [work.folder(number).name for number, index in enumerate(indices) if index["parts"]]
    _gather_looks(work.out, names, looks)
    common: dict[str, Any] = {
        name: indices[0].get(name) for name in ("source", "encoding", "made_by", "shapes", "long", "crops")
    }
    common |= {"content": work.source.content, "parts": [], "before": [], "position": asdict(Position())}
    write_json(work.out / INDEX, {**common, SETS: names, "finished": True, "report": report.to_json()})
    return EncodedSet.open(work.out)


def summed_up(reports: Sequence[Report], allowed: float) -> Report:
    """Sum the reports of all shards.

    Raises:
        ValueError: too many bad samples.
    """
    total = Report(allowed)
    for one in reports:
        total.good += one.good
        total.shards += one.shards
        for name in ("bad", "bad_shards", "captions"):
            getattr(total, name).update(getattr(one, name))
        total.examples += one.examples[: MOST_EXAMPLES - len(total.examples)]
        total.last = one.last or total.last
    bad: Counter[str] = total.bad
    if bad.total() > max(total.few, allowed * (bad.total() + total.good)):
        raise ValueError(f"too many bad samples ({allowed:.0%} allowed): {total}{total.hint}")
    return total


def _gather_looks(out: Path, names: Sequence[str], count: int) -> None:
    """Copy the first original items by `rank` from those that the sets keep."""
    kept = [file for name in names for file in (out / name / FOLDER).glob("*.png") if len(file.stem) == RANK_LENGTH]
    folder = out / FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for picture in sorted(kept, key=lambda file: file.stem)[:count]:
        for file in picture.parent.glob(f"{picture.stem}.*"):
            shutil.copyfile(file, folder / file.name)


def load_bank(model: str, device: str | None) -> ModalityBank:
    """The codecs and context encoders of a model."""
    pipe = VersatileDiffusionPipeline.from_pretrained(model)
    return pipe.bank.to(torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))).eval()


def is_sharded(source: Source, out: Path) -> bool:
    """Whether to encode shard by shard: the source has several shards, and `out` was not started as one set."""
    if not (out / INDEX).is_file():
        return len(source.shards) > 1 and all(not isinstance(s, TextFiles | Metadata) for s in source.shards)
    return SETS in read_index(out / INDEX)
