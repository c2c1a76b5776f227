"""`versatile encode`: encode images and texts to files of context tokens or latents."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from versatile_diffusion.choices import unknown
from versatile_diffusion.cli.io.console import note, show, show_json, with_progress
from versatile_diffusion.cli.io.inputs import files_in, name_of
from versatile_diffusion.cli.io.mistakes import one_line
from versatile_diffusion.cli.options import Device, Json, Model, Overwrite, among
from versatile_diffusion.data.listing import printable
from versatile_diffusion.modalities import MODALITIES

if TYPE_CHECKING:
    from versatile_diffusion import Embeddings, VersatileDiffusionPipeline

KINDS = ("context", "latent")
AT_ONCE = 16


@dataclass(frozen=True)
class EncodeInput:
    """Source of one embeddings file: an image, a file with one text per line, or a typed text.

    Args:
        modality: modality of the values.
        stem: base name of the output, below the same subfolders as the input.
        file: source file; None for a typed text.
        text: the typed text, if there is no file.
    """

    modality: str
    stem: str
    file: Path | None = None
    text: str = ""

    def name(self, kind: str) -> str:
        """Return the name of the embeddings file, relative to the output folder."""
        return f"{self.stem}.{self.modality}-{kind}.safetensors"

    def values(self, size: int | None) -> tuple[list[Any], tuple[str, ...]]:
        """Read the raw values and their names; values with a size are fitted to a square of `size` pixels, if given."""
        record = MODALITIES[self.modality]
        given = [self.text] if self.file is None else record.read(self.file)
        values = [record.check(value) for value in given]
        if size and record.square is not None:
            values = [record.square(value, size) for value in values]
        names = values if record.plain else [printable(self.file or "")] * len(values)
        return values, tuple(names)

    def newer_than(self, target: Path) -> bool:
        return self.file is not None and self.file.stat().st_mtime > target.stat().st_mtime


def encode(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT", help="Images, .txt files (one text per line), folders of these; or texts."),
    ],
    kind: Annotated[
        str,
        typer.Option("--as", help="context: conditioning tokens; latent: codec latents.", autocompletion=among("as")),
    ] = "context",
    model: Model = "emoji",
    out: Annotated[Path, typer.Option(help="Output folder.")] = Path("out/embeddings"),
    size: Annotated[int | None, typer.Option(min=1, help="Fit images to a square of this many pixels first.")] = None,
    overwrite: Overwrite = False,
    device: Device = None,
    json: Json = False,
) -> int:
    """Encode images and texts to context tokens or latents. A repeated call resumes."""
    from versatile_diffusion.cli.io.files import check_folder
    from versatile_diffusion.cli.io.model import load

    if kind not in KINDS:
        raise ValueError(unknown("--as", kind, KINDS))
    check_folder(out)
    sources = list(sources_of(inputs))
    encoding = FileEncoder(load(model, device), kind, size, overwrite)
    started = time.perf_counter()
    written: list[str] = []
    kept: list[str] = []
    failed: dict[str, str] = {}
    for source in with_progress(sources, "encoding"):
        target = out / source.name(kind)
        try:
            (written if encoding.write(source, target) else kept).append(str(target))
        except (ValueError, OSError) as error:
            if len(sources) == 1:
                raise
            failed[printable(source.file or source.text)] = one_line(error)
    if json:
        show_json({"files": written, "kept": kept, "failed": failed})
    else:
        for file in written:
            show(file)
    for given, message in failed.items():
        note(f"failed: {given}: {message}")
    seconds = time.perf_counter() - started
    note(f"{len(written)} written in {seconds:.1f} s, {len(kept)} already existed, {len(failed)} failed")
    return int(bool(failed))


@dataclass(frozen=True)
class FileEncoder:
    """Encodes values to embeddings of one kind with one model."""

    pipe: VersatileDiffusionPipeline
    kind: str
    size: int | None
    overwrite: bool = False
    known: dict[str, Embeddings] = field(default_factory=dict)

    def write(self, source: EncodeInput, target: Path) -> bool:
        """Encode a source unless it is done already; return whether there was work.

        Raises:
            ValueError: an unreadable source, or a target encoded by another model.
        """
        if not self.overwrite and self._is_done(source, target):
            return False
        values, names = source.values(self.size)
        tensor = self._encode(source.modality, values)
        replace(self._empty(source.modality), tensor=tensor, names=names).save(target)
        return True

    def _encode(self, modality: str, values: list[Any]) -> Any:
        import torch

        ways: dict[str, Callable[..., Any]] = {"context": self.pipe.encode_context, "latent": self.pipe.encode_latent}
        encode = ways[self.kind]
        return torch.cat([encode(values[k : k + AT_ONCE], modality) for k in range(0, len(values), AT_ONCE)])

    def _empty(self, modality: str) -> Embeddings:
        """Return an empty embeddings object with all metadata."""
        import torch

        from versatile_diffusion.records.embeddings import embeddings_of

        if modality not in self.known:
            self.known[modality] = embeddings_of(self.pipe.bank, self.kind, modality, torch.empty(1, 1, 1))
        return self.known[modality]

    def _is_done(self, source: EncodeInput, target: Path) -> bool:
        from versatile_diffusion.records.embeddings import mapped_embeddings

        if not target.exists():
            return False
        there, ours = mapped_embeddings(target), self._empty(source.modality)
        if there.made_as != ours.made_as:
            raise ValueError(f"{target} already exists, encoded by {there.encoder}, not {ours.encoder}; change --out")
        return not source.newer_than(target) and not self._other_size(source.modality, there)

    def _other_size(self, modality: str, there: Embeddings) -> bool:
        sides = MODALITIES[modality].size
        if self.kind != "latent" or not sides or not self.size:
            return False
        shape = self.pipe.bank.codecs[modality].latent_shape(**dict.fromkeys(sides, self.size))
        return tuple(there.tensor.shape[1:]) != tuple(shape)


def sources_of(inputs: Sequence[str]) -> Iterator[EncodeInput]:
    """Yield the sources in the given order, folders sorted by name.

    Raises:
        ValueError: a missing file, an unknown file type, an empty folder, or two sources of one name.
    """
    taken: dict[tuple[str, str], EncodeInput] = {}
    for given in inputs:
        found = list(_sources_in(given))
        if not found:
            raise ValueError(f"{given} contains no images or texts ({', '.join(MODALITIES.suffixes)})")
        for source in found:
            other = taken.setdefault((source.modality, source.stem), source)
            if other is not source:
                raise ValueError(
                    f"{other.file or other.text} and {source.file or source.text} have the same output name"
                )
            yield source


def _sources_in(given: str) -> Iterator[EncodeInput]:
    if os.path.isdir(given):  # unlike pathlib, os.path takes any string
        for file in files_in(Path(given)):
            yield EncodeInput(_modality_of(file.suffix), file.relative_to(given).with_suffix("").as_posix(), file)
    elif (suffix := os.path.splitext(given)[1].lower()) in MODALITIES.suffixes or os.path.isfile(given):
        if not os.path.isfile(given):
            raise ValueError(f"{given}: no such file")
        if suffix not in MODALITIES.suffixes:
            raise ValueError(f"{given} is neither an image nor a text ({', '.join(MODALITIES.suffixes)})")
        yield EncodeInput(_modality_of(suffix), Path(given).stem, Path(given))
    else:
        typed = next(name for name, record in MODALITIES.items() if record.form == "typed")
        yield EncodeInput(typed, name_of(given), text=given)


def _modality_of(suffix: str) -> str:
    record = MODALITIES.of_suffix(suffix)
    assert record is not None
    return record.name
