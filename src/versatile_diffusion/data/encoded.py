"""Items as latents and context tokens, computed once: safetensors files, written part by part and read back mapped."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from versatile_diffusion.data.buckets import Buckets, Shape, cut
from versatile_diffusion.data.disk import write_whole, writing
from versatile_diffusion.data.sources import Item, Position, Report, Source, open_source
from versatile_diffusion.modalities.bank import ModalityBank
from versatile_diffusion.modalities.base import Codec
from versatile_diffusion.sampling.embeddings import maker_of

INDEX = "encoded.json"
LOOKS = "looks"
LATENTS, TOKENS = "latents", "tokens"
RANK_LENGTH = 64
"""Letters of a `rank`."""
BEGUN = {
    "source": "another source",
    "shards": "another number of shards",
    "listing": "other files (names or sizes)",
    "made_by": "another model",
    "shapes": "other shapes",
}
"""What an encoding that goes on must not differ in."""
T = TypeVar("T")


@dataclass(frozen=True)
class Rows:
    """One kind of rows of many items, in several files; an item has one row, or several of which one is drawn.
    All rows of a file have one shape.

    Args:
        parts: of each file, the rows (R, ...) in half precision and where each item's begin (N + 1,).
        device: where what is drawn goes.
    """

    parts: Sequence[tuple[Tensor, Tensor]]
    device: torch.device

    @cached_property
    def starts(self) -> Tensor:
        """The number of the first item of each part, and of all items (P + 1,)."""
        return torch.tensor([0, *(len(first) - 1 for _, first in self.parts)]).cumsum(0)

    @cached_property
    def several(self) -> bool:
        return any(len(rows) > len(first) - 1 for rows, first in self.parts)

    @cached_property
    def alike(self) -> list[Tensor]:
        """The numbers of the items whose rows have one shape, shape by shape."""
        found: dict[tuple[int, ...], list[Tensor]] = {}
        for (rows, first), start in zip(self.parts, self.starts.tolist(), strict=False):
            found.setdefault(tuple(rows.shape[1:]), []).append(start + torch.arange(len(first) - 1))
        return [torch.cat(numbers) for numbers in found.values()]

    def draw(self, items: Tensor, generator: torch.Generator) -> Tensor:
        """Rows (B, ...) of items (B,), all of one shape (see `alike`), in float32."""
        picks = torch.zeros(len(items))
        if self.several:
            picks = torch.rand(len(items), generator=generator, device=generator.device).cpu()
        numbers = items.cpu()
        which = torch.bucketize(numbers, self.starts, right=True) - 1
        chosen = []
        for part, item, pick in zip(which.tolist(), numbers.tolist(), picks.tolist(), strict=True):
            rows, first = self.parts[part]
            begin, end = first[item - int(self.starts[part]) :][:2].tolist()
            chosen.append(rows[begin + int(pick * (end - begin))])
        return torch.stack(chosen).to(self.device).float()


@dataclass(frozen=True)
class EncodedSet:
    """What `encode_set` wrote into a folder."""

    folder: Path
    index: Mapping[str, Any]

    @classmethod
    def open(cls, folder: str | Path) -> EncodedSet:
        """The set in a folder.

        Raises:
            ValueError: there is none, or it was not written to its end.
        """
        path = Path(folder) / INDEX
        if not path.is_file():
            raise ValueError(f"{folder} holds no {INDEX}; `versatile data encode` writes such a folder")
        index = json.loads(path.read_text(encoding="utf-8"))
        if not index["finished"]:
            raise ValueError(f"{folder} is not complete ({_count(index)} items); run `versatile data encode` again")
        return cls(Path(folder), index)

    def __len__(self) -> int:
        return _count(self.index)

    @cached_property
    def parts(self) -> list[dict[str, Tensor]]:
        """The tensors of each file, mapped: what is not drawn is not read."""
        return [load_file(self.folder / part["file"]) for part in self.index["parts"]]

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
        return Rows([(part[name], part[f"first.{modality}"]) for part in self.parts], device)

    def check(self, bank: ModalityBank) -> None:
        """Refuses a set that other codecs or context encoders made.

        Raises:
            ValueError: they are others; it says which.
        """
        there = self.index["made_by"]
        wrong = [name for name, part in _encoders(bank).items() if there.get(name) != maker_of(part)]
        if wrong:
            raise ValueError(
                f"{self.folder} was encoded by another model ({', '.join(wrong)}); encode it anew with this one"
            )

    def looks(self, keys: Iterable[str]) -> list[Item]:
        """Those of the items with these names that were kept as they were; the first items of all, which sets of
        earlier versions kept, if none was."""
        kept = [item for item, _ in open_source(self.folder / LOOKS).read()]
        names = {f"{rank(key)}.png" for key in keys}
        return [item for item in kept if item.key in names] or kept


def rank(key: str) -> str:
    """What items are put into an order by that has nothing to do with what they are: a hash of the name."""
    return hashlib.sha256(key.encode()).hexdigest()


def encode_set(
    source: Source,
    bank: ModalityBank,
    out: Path,
    *,
    part: int = 4096,
    batch: int = 32,
    looks: int = 12,
    buckets: Buckets | None = None,
    report: Report | None = None,
    progress: Callable[[int], None] = lambda items: None,
) -> EncodedSet:
    """Encodes every item of a source into `out`; called again, it goes on after the last part that was written.

    Args:
        source: read once, in the order of its shards.
        bank: its codecs make the latents, its context encoders the tokens, of all modalities that they have.
        out: folder for `encoded.json`, `part-00000.safetensors`, ... and `looks/`, items as they were.
        part: items per file.
        batch: values that are encoded together.
        looks: how many items to keep as they were, the first by `rank`.
        buckets: the shapes that pictures are cut to, each to the nearest; the codec's own size if left out.
        report: counts what is skipped.
        progress: told the number of items so far.

    Raises:
        ValueError: `out` was begun by another model or from another source, too much is bad, or nothing is good.
        OSError: the disk is full; what is written stays.
    """
    report, done = report or Report(), 0
    with writing(out, lambda: f"the first {done} items stay"):
        out.mkdir(parents=True, exist_ok=True)
        index = _begun(out, source, bank, buckets, report)
        if index["finished"]:
            return EncodedSet.open(out)
        done = _count(index)
        report = Report(**{**index["report"], "allowed": report.allowed, "few": report.few})
        for group in _batched(source.read(Position(**index["position"]), report), part):
            items = [item for item, _ in group]
            _write_looks(items, looks, out / LOOKS)
            for shape, alike in ({None: items} if buckets is None else buckets.parted(items)).items():
                name = f"part-{len(index['parts']):05d}.safetensors"
                write_whole(out / name, partial(save_file, _tensors(alike, bank, batch, shape)))
                index["parts"].append({"file": name, "keys": [item.key for item in alike]})
            index |= {"position": asdict(group[-1][1]), "report": report.to_json()}
            _write_index(out, index)
            done = _count(index)
            progress(done)
        if not index["parts"]:
            raise ValueError(f"{source.path} holds no good picture with a caption: {report}{report.hint}")
        _write_index(out, index | {"finished": True, "report": report.to_json()})
    return EncodedSet.open(out)


def _begun(out: Path, source: Source, bank: ModalityBank, buckets: Buckets | None, report: Report) -> dict[str, Any]:
    made_by = {name: maker_of(part) for name, part in _encoders(bank).items()}
    told: dict[str, Any] = {
        "source": str(source.path.resolve()),
        "shards": len(source.shards),
        "listing": source.listing,
        "made_by": made_by,
        "shapes": None if buckets is None else [list(shape) for shape in buckets.shapes],
    }
    if not (out / INDEX).is_file():
        return {**told, "parts": [], "position": asdict(Position()), "finished": False, "report": report.to_json()}
    index = {"listing": source.listing, **json.loads((out / INDEX).read_text(encoding="utf-8"))}  # not in older ones
    if other := [BEGUN[name] for name, value in told.items() if index.get(name) != value]:
        raise ValueError(f"{out} was begun with {' and '.join(other)}; give another folder, or delete it")
    return index


def _encoders(bank: ModalityBank) -> dict[str, Any]:
    """Everything that makes rows, by their name in the files."""
    return {f"{LATENTS}.{m}": part for m, part in bank.codecs.items()} | {
        f"{TOKENS}.{m}": part for m, part in bank.encoders.items()
    }


@torch.no_grad()
def _tensors(items: Sequence[Item], bank: ModalityBank, batch: int, shape: Shape | None) -> dict[str, Tensor]:
    encoders = _encoders(bank)
    tensors = {}
    for modality in dict.fromkeys(name.split(".")[1] for name in encoders):
        counts = [0, *(len(item.values[modality]) for item in items)]
        tensors[f"first.{modality}"] = torch.tensor(counts).cumsum(0)
    for name, encoder in encoders.items():
        kind, modality = name.split(".")
        values = [value for item in items for value in item.values[modality]]
        encode = encoder.encode
        if kind == LATENTS:
            encode = partial(_latents, encoder, shape if modality == "image" else None)
        tensors[name] = torch.cat([encode(some).half().cpu() for some in _batched(values, batch)]).contiguous()
    return tensors


def _latents(codec: Codec, shape: Shape | None, values: Sequence[Any]) -> Tensor:
    """Of values at the codec's own size, or of pictures at another shape."""
    if shape is None:
        return codec.encode([codec.fit(value) for value in values])
    return codec.encode([cut(value, shape) for value in values], height=shape[0], width=shape[1])


def _write_looks(items: Iterable[Item], count: int, folder: Path) -> None:
    """Leaves the first `count` by `rank` of those that are there and these; none that an earlier version chose."""
    folder.mkdir(exist_ok=True)
    for item in sorted(items, key=lambda item: rank(item.key))[:count]:
        path = folder / f"{rank(item.key)}.png"
        item.values["image"][0].save(path)
        path.with_suffix(".txt").write_text("\n".join(item.values["text"]) + "\n", encoding="utf-8")
    there = sorted(folder.glob("*.png"))
    ranked = [path for path in there if len(path.stem) == RANK_LENGTH]
    for path in {*there}.difference(ranked[:count]):
        path.with_suffix(".txt").unlink(missing_ok=True)  # first: what is found again is the picture
        path.unlink()


def _write_index(out: Path, index: Mapping[str, Any]) -> None:
    text = json.dumps(index, ensure_ascii=False, indent=1) + "\n"
    write_whole(out / INDEX, lambda path: path.write_text(text, encoding="utf-8"))


def _batched(values: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` values, the last one perhaps shorter."""
    rest = iter(values)
    while some := list(islice(rest, size)):
        yield some


def _count(index: Mapping[str, Any]) -> int:
    return sum(len(part["keys"]) for part in index["parts"])
