"""`versatile encode`: pictures and texts to files of context tokens or latents."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from versatile_diffusion.choices import unknown
from versatile_diffusion.cli.console import note, show, show_json, tracked
from versatile_diffusion.cli.inputs import READERS, files_in, lines_of, name_of
from versatile_diffusion.cli.mistakes import one_line
from versatile_diffusion.cli.options import Device, Json, Model, Overwrite, among

if TYPE_CHECKING:
    from versatile_diffusion import Embeddings, VersatileDiffusionPipeline

KINDS = ("context", "latent")
AT_ONCE = 16


@dataclass(frozen=True)
class Source:
    """What becomes one file of embeddings: a picture, a file with a text on each line, or a text as it was given.

    Args:
        modality: of the values.
        stem: of the new file's name, with folders before it where a folder was given.
        file: where the values are.
        text: the value itself, where there is no file.
    """

    modality: str
    stem: str
    file: Path | None = None
    text: str = ""

    def name(self, kind: str) -> str:
        """Of the file of embeddings, below the folder that is written to."""
        return f"{self.stem}.{self.modality}-{kind}.safetensors"

    def values(self, size: int | None) -> tuple[list[Any], tuple[str, ...]]:
        """Raw values and their names; pictures fitted to a square of `size` pixels, where it is given."""
        from PIL import Image, ImageOps

        from versatile_diffusion.modalities.image import check_image

        if self.modality == "image":
            picture = check_image(self.file)
            fitted = ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC) if size else picture
            return [fitted], (str(self.file),)
        texts = [self.text] if self.file is None else lines_of(self.file)
        return list(texts), tuple(texts)

    def newer_than(self, target: Path) -> bool:
        return self.file is not None and self.file.stat().st_mtime > target.stat().st_mtime


def encode(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT", help="Pictures, .txt files (a text a line), folders of these; or texts."),
    ],
    kind: Annotated[
        str,
        typer.Option(
            "--as", help="context: tokens, which guide; latent: what is generated.", autocompletion=among("as")
        ),
    ] = "context",
    model: Model = "emoji",
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("out/embeddings"),
    size: Annotated[int | None, typer.Option(min=1, help="Fit pictures to a square of so many pixels first.")] = None,
    overwrite: Overwrite = False,
    device: Device = None,
    json: Json = False,
) -> int:
    """Turn pictures and texts into context tokens or latents. Called again, it goes on where it stopped."""
    from versatile_diffusion.cli.files import check_folder
    from versatile_diffusion.cli.model import load

    if kind not in KINDS:
        raise ValueError(unknown("--as", kind, KINDS))
    check_folder(out)
    sources = list(sources_of(inputs))
    encoding = Encoding(load(model, device), kind, size, overwrite)
    started = time.perf_counter()
    written: list[str] = []
    kept: list[str] = []
    failed: dict[str, str] = {}
    for source in tracked(sources, "encoding"):
        target = out / source.name(kind)
        try:
            (written if encoding.write(source, target) else kept).append(str(target))
        except ValueError as error:
            if len(sources) == 1:
                raise
            failed[str(source.file or source.text)] = one_line(error)
    if json:
        show_json({"files": written, "kept": kept, "failed": failed})
    else:
        for file in written:
            show(file)
    for given, message in failed.items():
        note(f"failed: {given}: {message}")
    seconds = time.perf_counter() - started
    note(f"{len(written)} written in {seconds:.1f} s, {len(kept)} were there already, {len(failed)} failed")
    return int(bool(failed))


@dataclass(frozen=True)
class Encoding:
    """Values to embeddings of one kind, by one model."""

    pipe: VersatileDiffusionPipeline
    kind: str
    size: int | None
    overwrite: bool = False
    known: dict[str, Embeddings] = field(default_factory=dict)

    def write(self, source: Source, target: Path) -> bool:
        """Encodes a source, unless that was done already; whether there was something to do.

        Raises:
            ValueError: the source cannot be read, or the target was made by another model.
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
        """No embeddings yet, but all that is known of them."""
        import torch

        from versatile_diffusion.sampling.embeddings import embeddings_of

        if modality not in self.known:
            self.known[modality] = embeddings_of(self.pipe.bank, self.kind, modality, torch.empty(0))
        return self.known[modality]

    def _is_done(self, source: Source, target: Path) -> bool:
        from versatile_diffusion.sampling.embeddings import mapped_embeddings

        if not target.exists():
            return False
        there, ours = mapped_embeddings(target), self._empty(source.modality)
        if there.made_as != ours.made_as:
            raise ValueError(f"{target} is there already, made by {there.encoder}, not {ours.encoder}; change --out")
        return not source.newer_than(target) and not self._other_size(source.modality, there)

    def _other_size(self, modality: str, there: Embeddings) -> bool:
        if self.kind != "latent" or modality != "image" or not self.size:
            return False
        shape = self.pipe.bank.codecs[modality].latent_shape(height=self.size, width=self.size)
        return tuple(there.tensor.shape[1:]) != tuple(shape)


def sources_of(inputs: Sequence[str]) -> Iterator[Source]:
    """What is to be encoded, in the order given, folders by name.

    Raises:
        ValueError: no such file, one that is neither picture nor text, an empty folder, or two sources of one name.
    """
    taken: dict[tuple[str, str], Source] = {}
    for given in inputs:
        found = list(_sources_in(given))
        if not found:
            raise ValueError(f"{given} holds no pictures and no texts ({', '.join(READERS)})")
        for source in found:
            other = taken.setdefault((source.modality, source.stem), source)
            if other is not source:
                raise ValueError(f"{other.file or other.text} and {source.file or source.text} would share one file")
            yield source


def _sources_in(given: str) -> Iterator[Source]:
    if os.path.isdir(given):  # unlike pathlib's, these take any string
        for file in files_in(Path(given)):
            yield Source(READERS[file.suffix.lower()], file.relative_to(given).with_suffix("").as_posix(), file)
    elif (suffix := os.path.splitext(given)[1].lower()) in READERS or os.path.isfile(given):
        if not os.path.isfile(given):
            raise ValueError(f"{given}: no such file")
        if suffix not in READERS:
            raise ValueError(f"{given} is neither a picture nor a text ({', '.join(READERS)})")
        yield Source(READERS[suffix], Path(given).stem, Path(given))
    else:
        yield Source("text", name_of(given), text=given)
