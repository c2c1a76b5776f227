"""Context tokens and latents: encoded by a model, stored in files, and used in place of raw values."""

from __future__ import annotations

import json
import os
import platform
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol, SupportsIndex

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from versatile_diffusion.choices import chosen
from versatile_diffusion.files import write_whole
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.modalities.bank import ModalityBank
from versatile_diffusion.modalities.base import Codec, ContextEncoder
from versatile_diffusion.numeric import as_tensor, check_finite, sequence, settle
from versatile_diffusion.printable import shown
from versatile_diffusion.reading import parse_json, reading
from versatile_diffusion.records.png import KEY
from versatile_diffusion.records.record import fingerprint
from versatile_diffusion.version import __version__

SCHEMA = 1
SUFFIX = ".safetensors"
MAKERS = {"context": "encoders", "latent": "codecs"}
"""Kinds of embeddings, and the parts of a bank that encode them."""
FORMS = {"context": "tokens (N, L, D), or (L, D) of one item", "latent": "latents (N, ...) with a batch axis"}
"""Expected shapes, for messages."""
AS_MADE = "encoder"
RECORDED: Mapping[str, Any] = {
    "kind": str,
    "modality": str,
    "names": list,
    "encoder": str | None,
    "normalisation": str,
    "preprocessing": int | None,
    "libraries": dict,
}
"""Type of each field in a file's record; lists and dicts hold strings."""
DECISIVE = ("torch", "transformers", "diffusers")
"""Libraries whose version affects embeddings."""


def libraries() -> dict[str, str]:
    """Return the versions of libraries that affect embeddings."""
    return {name: version(name) for name in DECISIVE} | {
        "versatile-diffusion": __version__,
        "python": platform.python_version(),
    }


@dataclass(frozen=True)
class Embeddings:
    """Context tokens or latents of some values, with their provenance.

    Tasks accept them in place of raw values: tokens condition directly, latents are decoded first.

    Args:
        kind: `"context"` or `"latent"`.
        modality: modality of the values.
        tensor: tokens (N, L, D), or (L, D) for one item; latents (N, ...). Arrays are accepted.
        names: one per item, e.g. file names or the texts; optional.
        encoder: the encoder or codec they come from (`maker_of`); None disables the check.
        normalisation: `"encoder"` for the encoder's own scale, or another key of `NORMALISATIONS`.
        preprocessing: version of the encoder's preprocessing.
        libraries: library versions used to encode.
    """

    kind: str
    modality: str
    tensor: Float[Tensor, "n ..."] = field(repr=False)
    names: tuple[str, ...] = ()
    encoder: str | None = None
    normalisation: str = AS_MADE
    preprocessing: int | None = None
    libraries: Mapping[str, str] = field(default_factory=libraries, repr=False)

    def __post_init__(self) -> None:
        chosen("kind of embeddings", self.kind, MAKERS)
        chosen("modality", self.modality, MODALITIES)
        tensor = as_tensor(self.tensor, f"{self.modality} {self.kind} embeddings")
        settle(self, tensor=tensor[None] if self.kind == "context" and tensor.ndim == 2 else tensor)
        if (self.kind == "context" and self.tensor.ndim != 3) or self.tensor.ndim < 2:
            raise ValueError(
                f"{self.modality} {self.kind} embeddings are {tuple(tensor.shape)}; they must be {FORMS[self.kind]}"
            )
        names = sequence(self.names)
        names = names and [os.fspath(name) if isinstance(name, os.PathLike) else name for name in names]
        if names is None or not all(isinstance(name, str) for name in names):
            raise ValueError(f"names is {shown(self.names)}; it must be a list of strings, one per item")
        for name in ("encoder", "normalisation", "preprocessing"):
            if not isinstance(getattr(self, name), RECORDED[name]):
                raise ValueError(f"{name} of embeddings is {shown(getattr(self, name))}")
        settle(self, names=tuple(names))
        if self.names and len(self.names) != len(self.tensor):
            raise ValueError(f"{len(self.names)} names for {len(self.tensor)} items; give one per item, or none")

    def __len__(self) -> int:
        return len(self.tensor)

    def __getitem__(self, which: SupportsIndex | slice) -> Embeddings:
        """Return some of the items; for an index, that item as embeddings of one."""
        if not isinstance(which, slice):
            number = range(len(self))[which]
            which = slice(number, number + 1)
        return replace(self, tensor=self.tensor[which], names=self.names[which])

    def __iter__(self) -> Iterator[Embeddings]:
        return (self[index] for index in range(len(self)))

    @property
    def made_as(self) -> tuple[str, str, str | None, str, int | None]:
        """Return the provenance that all items of a file share."""
        return self.kind, self.modality, self.encoder, self.normalisation, self.preprocessing

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write a safetensors file: one tensor, named by its kind, and a JSON record in the metadata.

        The write is atomic: an interrupted call leaves no partial file.
        """
        path = Path(path)
        known = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "tensor"}
        record = {"schema": SCHEMA, "shape": list(self.tensor.shape), **known}
        if not self.tensor.numel():
            raise ValueError(f"embeddings {tuple(self.tensor.shape)} are empty; nothing to save")
        check_finite(self.tensor, f"the {self.modality} {self.kind} embeddings to be saved as {path.name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {self.kind: self.tensor.detach().cpu().contiguous()}
        metadata = {KEY: json.dumps(record, ensure_ascii=False)}
        write_whole(path, lambda draft: save_file(tensors, draft, metadata=metadata), contested=True)
        return path

    def check(self, bank: ModalityBank) -> None:
        """Raise ValueError unless they come from an encoder or codec of this bank."""
        part = getattr(bank, MAKERS[self.kind])[self.modality]
        axes = axes_of(part)
        if self.tensor.ndim != axes:
            raise ValueError(
                f"{self.modality} {self.kind} embeddings are {tuple(self.tensor.shape)}; they must have {axes} axes, "
                f"the first being the batch"
            )
        if self.encoder is None:
            return
        if (ours := maker_of(part)) != self.encoder:
            raise ValueError(
                f"these {self.modality} {self.kind} embeddings belong to {self.encoder}; this model has {ours}. "
                f"Re-encode the values, or load them with any_encoder=True"
            )
        if self.preprocessing is not None and self.preprocessing != part.preprocessing:
            raise ValueError(
                f"encoded with preprocessing {self.preprocessing} of {self.modality} values; this model uses "
                f"{part.preprocessing}. Re-encode the values, or load them with any_encoder=True"
            )


def check_shape(pipe: HasBank, embeddings: Embeddings) -> None:
    """Raise ValueError, naming the allowed shapes, unless the model accepts embeddings of this shape."""
    kind, modality, shape = embeddings.kind, embeddings.modality, tuple(embeddings.tensor.shape)
    part = getattr(pipe.bank, MAKERS[kind])[modality]
    if isinstance(part, Codec):
        own = part.latent_shape()
        right = len(shape) == 1 + len(own) and shape[1] == own[0]
        wanted = f"(N, {own[0]}, rows, columns), e.g. {('N', *own)}" if len(own) == 3 else f"{('N', *own)}"
    else:
        width = pipe.unet.config.context_streams.get(modality, {}).get("width")
        right = len(shape) == 3 and width in (None, shape[2])
        wanted = f"(N, L, {width})"
    if not right or not embeddings.tensor.numel():
        raise ValueError(
            f"{modality} {kind} embeddings are {shape}; those of {type(part).__name__} are {wanted}, N items, or one "
            f"item without the first axis".replace("'N'", "N")
        )


def axes_of(part: Codec | ContextEncoder) -> int:
    """Return the number of axes of a batch from a codec or context encoder."""
    return 1 + len(part.latent_shape()) if isinstance(part, Codec) else 3


def maker_of(part: Any) -> str:
    """Return class and fingerprint of a codec or context encoder. Equal for 16-bit and 32-bit weights, since only half
    precision enters it (bfloat16 differs)."""
    return f"{type(part).__name__}-{fingerprint(part, precision=torch.float16)}"


def embeddings_of(bank: ModalityBank, kind: str, modality: str, tensor: Tensor, **known: Any) -> Embeddings:
    """Wrap a tensor, batch or single item, as embeddings of this bank's encoder or codec; `known` may set names and
    normalisation."""
    chosen("kind of embeddings", kind, MAKERS)
    part = getattr(bank, MAKERS[kind])[modality]
    tensor = as_tensor(tensor, f"{modality} {kind} embeddings")
    tensor = tensor[None] if tensor.ndim == axes_of(part) - 1 else tensor
    return Embeddings(kind, modality, tensor, encoder=maker_of(part), preprocessing=part.preprocessing, **known)


class HasBank(Protocol):
    """Object with a bank, e.g. a pipeline."""

    bank: ModalityBank
    unet: Any


def save_embeddings(
    path: str | os.PathLike[str],
    tensor: Any,
    *,
    kind: str = "context",
    modality: str = "image",
    pipe: HasBank | None = None,
    names: Sequence[str] = (),
    normalisation: str = AS_MADE,
) -> Path:
    """Write tokens or latents to a file.

    Args:
        path: output file, by convention with suffix .safetensors.
        tensor: tokens (N, L, D), latents (N, ...), or a single item without batch axis (latents only with `pipe`); or
            `Embeddings`, which need no further arguments.
        kind, modality: `"context"` or `"latent"`, and the modality.
        pipe: model whose encoder they come from; without it the file is accepted by every model.
        names: one per item.
        normalisation: normalisation applied, if any.
    """
    if isinstance(tensor, Embeddings):
        return tensor.save(path)
    known: dict[str, Any] = {"names": names, "normalisation": normalisation}
    if pipe is None:
        return Embeddings(kind, modality, tensor, **known).save(path)
    embeddings = embeddings_of(pipe.bank, kind, modality, tensor, **known)
    check_shape(pipe, embeddings)
    return embeddings.save(path)


class OtherLibraries(UserWarning):
    """Warning: embeddings were encoded with other library releases than those installed."""


def other_libraries(embeddings: Embeddings) -> str:
    """List libraries whose release (major.minor) differs from the one that encoded them; empty if none."""
    here = libraries()
    others = {
        name: there
        for name, there in embeddings.libraries.items()
        if name in DECISIVE and _release(there) != _release(here[name])
    }
    return ", ".join(f"{name} {there} (here {here[name]})" for name, there in others.items())


def _release(version: str) -> list[str]:
    return version.split("+")[0].split(".")[:2]


def load_embeddings(
    path: str | os.PathLike[str],
    pipe: HasBank | None = None,
    *,
    any_encoder: bool = False,
    kind: str | None = None,
    modality: str | None = None,
) -> Embeddings:
    """Read one embeddings file, or all in a folder (sorted by name) as one.

    Args:
        path: file or folder written by `save_embeddings` or `versatile encode`.
        pipe: model to check them against; by default they are checked when given to a task.
        any_encoder: skip this check, here and later.
        kind, modality: read only these from a folder.

    Raises:
        ValueError: a missing or foreign file, several kinds in one folder, or embeddings of another encoder.

    Warns:
        OtherLibraries: encoded with another release of torch, transformers or diffusers.
    """
    path = Path(path)
    files = sorted(path.rglob(f"*{SUFFIX}")) if path.is_dir() else [path]
    parts = [mapped_embeddings(file) for file in files]
    parts = [part for part in parts if kind in (None, part.kind) and modality in (None, part.modality)]
    if not parts:
        raise ValueError(f"{path} contains no embeddings" + "".join(f" of {what}" for what in (kind, modality) if what))
    if len(made := {part.made_as: part for part in parts}) > 1:
        found = ", ".join(f"{part.modality} {part.kind} of {part.encoder}" for part in made.values())
        raise ValueError(f"{path} contains several kinds of embeddings: {found}; specify kind and modality")
    if len(shapes := {part.tensor.shape[1:] for part in parts}) > 1:
        raise ValueError(f"{path} contains embeddings of several shapes: {', '.join(str(tuple(s)) for s in shapes)}")
    tensor = torch.cat([part.tensor for part in parts])  # copy: rounding can depend on memory alignment
    check_finite(tensor, f"the embeddings in {path}")
    names = tuple(name for part in parts for name in part.names)
    encoder = None if any_encoder else parts[0].encoder
    whole = replace(parts[0], tensor=tensor, names=names if len(names) == len(tensor) else (), encoder=encoder)
    if pipe is not None:
        whole.check(pipe.bank)
        check_shape(pipe, whole)
    if others := next(filter(None, map(other_libraries, parts)), ""):
        warnings.warn(f"{path} was encoded with {others}; the encoder's outputs may differ slightly", OtherLibraries, 2)
    return whole


def mapped_embeddings(path: Path) -> Embeddings:
    """Open one embeddings file memory-mapped.

    Raises:
        ValueError: a missing or foreign file.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such embeddings file")
    with reading(path, "embeddings"), safe_open(path, framework="pt") as file:
        text = (file.metadata() or {}).get(KEY)
        if text is None:
            raise ValueError(f"{path} has no {KEY} record; it was not written by save_embeddings")
        record = parse_json(text, f"the {KEY} record of {path}")
        if record.pop("schema", None) != SCHEMA:
            raise ValueError(f"{path} has an unsupported schema; this version reads {SCHEMA}")
        tensor = file.get_tensor(record["kind"])
        if list(tensor.shape) != record.pop("shape", None):
            raise ValueError(f"{path} is damaged: its record has another shape than {tuple(tensor.shape)}")
        return Embeddings(tensor=tensor, **_check_metadata(record))


def _check_metadata(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of embeddings; ValueError if a field has the wrong type."""
    known = {name: value for name, value in record.items() if name in {f.name for f in fields(Embeddings)}}
    for name, value in known.items():
        held = value if isinstance(value, list) else value.values() if isinstance(value, dict) else ()
        if not isinstance(value, RECORDED[name]) or not all(isinstance(one, str) for one in held):
            raise ValueError(f"its record says that {name} is {shown(value)}")
    return known | {"names": tuple(known.get("names", ()))}
