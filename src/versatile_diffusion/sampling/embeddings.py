"""Context tokens and latents in and out: made by a model, kept in files, given back to it in place of raw values."""

from __future__ import annotations

import json
import os
import platform
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from versatile_diffusion.flow import Condition
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.modalities.bank import ModalityBank
from versatile_diffusion.sampling.metadata import KEY
from versatile_diffusion.sampling.output import fingerprint
from versatile_diffusion.version import __version__

if TYPE_CHECKING:
    from versatile_diffusion.sampling.pipeline import VersatileDiffusionPipeline

SCHEMA = 1
SUFFIX = ".safetensors"
MAKERS = {"context": "encoders", "latent": "codecs"}
"""The kinds of embeddings, and which parts of a bank make them."""
AS_MADE = "encoder"
DECISIVE = ("torch", "transformers", "diffusers")
"""Libraries that compute embeddings."""


def libraries() -> dict[str, str]:
    """Versions of what embeddings depend on."""
    return {name: version(name) for name in DECISIVE} | {
        "versatile-diffusion": __version__,
        "python": platform.python_version(),
    }


@dataclass(frozen=True)
class Embeddings:
    """Context tokens or latents of some values, and what is known of their making.

    A task takes them wherever it takes a raw value: tokens guide as they are, latents are decoded first.

    Args:
        kind: `"context"` or `"latent"`.
        modality: of the values.
        tensor: tokens (N, L, D), or latents (N, ...).
        names: one per item, such as file names or the texts themselves; may be left out.
        encoder: which encoder or codec they belong to (`maker_of`); None where that is not to be checked.
        normalisation: `"encoder"` as the encoder gives them, or what else was done (a key of `NORMALISATIONS`).
        preprocessing: version of how that encoder prepares raw values.
        libraries: versions of the libraries that made them.
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
        if self.kind not in MAKERS:
            raise ValueError(f"unknown kind of embeddings {self.kind!r}; allowed: {', '.join(MAKERS)}")
        if self.modality not in MODALITIES:
            raise ValueError(f"unknown modality {self.modality!r}; allowed: {', '.join(MODALITIES)}")
        if self.names and len(self.names) != len(self.tensor):
            raise ValueError(f"{len(self.names)} names for {len(self.tensor)} items; give one each, or none")

    def __len__(self) -> int:
        return len(self.tensor)

    def __getitem__(self, which: int | slice) -> Embeddings:
        """Some of the items; for a number, that item alone."""
        if isinstance(which, int):
            if not -len(self) <= which < len(self):
                raise IndexError(which)
            which = slice(which % len(self), which % len(self) + 1)
        return replace(self, tensor=self.tensor[which], names=self.names[which])

    def __iter__(self) -> Iterator[Embeddings]:
        return (self[index] for index in range(len(self)))

    @property
    def made_as(self) -> tuple[str, str, str | None, str, int | None]:
        """All that items of one file share."""
        return self.kind, self.modality, self.encoder, self.normalisation, self.preprocessing

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes a safetensors file: one tensor, named by its kind, and a JSON record of all the rest in the metadata.

        The file appears at once and whole, so an interrupted run leaves none that is cut short.
        """
        path = Path(path)
        known = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "tensor"}
        record = {"schema": SCHEMA, "shape": list(self.tensor.shape), **known}
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
        tensors = {self.kind: self.tensor.detach().cpu().contiguous()}
        try:
            unfinished.touch()
            mode = unfinished.stat().st_mode  # as the user's other files; safetensors writes for the owner alone
            save_file(tensors, unfinished, metadata={KEY: json.dumps(record, ensure_ascii=False)})
            unfinished.chmod(mode)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
        return path

    def check(self, bank: ModalityBank) -> None:
        """ValueError unless they belong to an encoder (or codec) of this bank."""
        part = getattr(bank, MAKERS[self.kind])[self.modality]
        if self.encoder is None:
            return
        if (ours := maker_of(part)) != self.encoder:
            raise ValueError(
                f"these {self.modality} {self.kind} embeddings belong to {self.encoder}; this model has {ours}. "
                f"Encode the values anew, or load them with any_encoder=True"
            )
        if self.preprocessing is not None and self.preprocessing != part.preprocessing:
            raise ValueError(
                f"made with preprocessing {self.preprocessing} of {self.modality} values, now it is "
                f"{part.preprocessing}. Encode the values anew, or load them with any_encoder=True"
            )


def maker_of(part: Any) -> str:
    """Class and fingerprint of a codec or context encoder. Weights of 16 and of 32 bits have the same, as half
    precision is all that goes into it (bfloat16 has another)."""
    return f"{type(part).__name__}-{fingerprint(part, precision=torch.float16)}"


def embeddings_of(bank: ModalityBank, kind: str, modality: str, tensor: Tensor, **known: Any) -> Embeddings:
    """Embeddings that belong to this bank's encoder (or codec); `known` has names and normalisation."""
    if kind not in MAKERS:
        raise ValueError(f"unknown kind of embeddings {kind!r}; allowed: {', '.join(MAKERS)}")
    part = getattr(bank, MAKERS[kind])[modality]
    return Embeddings(kind, modality, tensor, encoder=maker_of(part), preprocessing=part.preprocessing, **known)


def save_embeddings(
    path: str | os.PathLike[str],
    tensor: Float[Tensor, "n ..."] | Embeddings,
    *,
    kind: str = "context",
    modality: str = "image",
    pipe: VersatileDiffusionPipeline | None = None,
    names: Sequence[str] = (),
    normalisation: str = AS_MADE,
) -> Path:
    """Writes tokens or latents to a file.

    Args:
        path: of the new file, by custom with the ending .safetensors.
        tensor: tokens (N, L, D), latents (N, ...); or `Embeddings`, which know all the rest.
        kind, modality: what they are, `"context"` or `"latent"` of which modality.
        pipe: the model whose encoder they belong to; without it the file fits every model.
        names: one per item.
        normalisation: what was done to them, if anything.
    """
    if isinstance(tensor, Embeddings):
        return tensor.save(path)
    known: dict[str, Any] = {"names": tuple(names), "normalisation": normalisation}
    if pipe is None:
        return Embeddings(kind, modality, tensor, **known).save(path)
    return embeddings_of(pipe.bank, kind, modality, tensor, **known).save(path)


class OtherLibraries(UserWarning):
    """Embeddings were made with other releases of the libraries than those that are here."""


def other_libraries(embeddings: Embeddings) -> str:
    """Which libraries made them in another release (the first two numbers of a version); empty if none did."""
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
    pipe: VersatileDiffusionPipeline | None = None,
    *,
    any_encoder: bool = False,
    kind: str | None = None,
    modality: str | None = None,
) -> Embeddings:
    """Reads a file of embeddings, or all files in a folder (in the order of their names) as one.

    Args:
        path: what `save_embeddings` or `versatile encode` wrote.
        pipe: the model that they are for; it is checked that its encoder made them. Without it that is checked when
            they are given to a task.
        any_encoder: do without that check, here and later.
        kind, modality: read only these from a folder.

    Raises:
        ValueError: no such file, not such a file, several kinds in one folder, or another encoder made them.

    Warns:
        OtherLibraries: another release of torch, transformers or diffusers made them.
    """
    path = Path(path)
    files = sorted(path.rglob(f"*{SUFFIX}")) if path.is_dir() else [path]
    parts = [mapped_embeddings(file) for file in files]
    parts = [part for part in parts if kind in (None, part.kind) and modality in (None, part.modality)]
    if not parts:
        raise ValueError(f"{path} holds no embeddings" + "".join(f" of {what}" for what in (kind, modality) if what))
    if len(made := {part.made_as: part for part in parts}) > 1:
        found = ", ".join(f"{part.modality} {part.kind} of {part.encoder}" for part in made.values())
        raise ValueError(f"{path} holds several kinds of embeddings: {found}; say which kind and modality to read")
    if len(shapes := {part.tensor.shape[1:] for part in parts}) > 1:
        raise ValueError(f"{path} holds embeddings of several shapes: {', '.join(str(tuple(s)) for s in shapes)}")
    tensor = torch.cat([part.tensor for part in parts])  # a copy: rounding can depend on where numbers lie in memory
    names = tuple(name for part in parts for name in part.names)
    encoder = None if any_encoder else parts[0].encoder
    whole = replace(parts[0], tensor=tensor, names=names if len(names) == len(tensor) else (), encoder=encoder)
    if pipe is not None:
        whole.check(pipe.bank)
    if others := next(filter(None, map(other_libraries, parts)), ""):
        warnings.warn(f"{path} was made with {others}; the encoder's numbers may differ a little", OtherLibraries, 2)
    return whole


def mapped_embeddings(path: Path) -> Embeddings:
    """One file of embeddings, whose numbers stay in it until they are looked at.

    Raises:
        ValueError: no such file, or not such a file.
    """
    if not path.is_file():
        raise ValueError(f"{path}: no such file of embeddings")
    try:
        with safe_open(path, framework="pt") as file:
            record = json.loads((file.metadata() or {}).get(KEY, "null"))
            if record is None:
                raise ValueError(f"{path} holds no {KEY} record; it was not written by save_embeddings")
            if record.pop("schema", None) != SCHEMA:
                raise ValueError(f"{path} is of a schema that this version does not read; it reads {SCHEMA}")
            tensor = file.get_tensor(record["kind"])
    except (SafetensorError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no file of embeddings, or damaged ({error})") from error
    if list(tensor.shape) != record.pop("shape", None):
        raise ValueError(f"{path} is damaged: its record tells of another shape than {tuple(tensor.shape)}")
    known = {name: value for name, value in record.items() if name in {f.name for f in fields(Embeddings)}}
    return Embeddings(tensor=tensor, **{**known, "names": tuple(known.get("names", ()))})


def read_values(value: Any, modality: str | None, known: Sequence[str]) -> tuple[str, list[Any]]:
    """The modality of one value or a list of them, and the checked raw values.

    Args:
        value: what a user gave.
        modality: of it; found by what the value is where left out.
        known: the modalities that come into question.

    Raises:
        ValueError: no modality reads it (and why), or several do.
    """
    values = list(value) if isinstance(value, list | tuple) else [value]
    if not values:
        raise ValueError("an empty list of values")
    if modality is not None:
        if modality not in MODALITIES:
            raise ValueError(f"unknown modality {modality!r}; allowed: {', '.join(MODALITIES)}")
        return modality, [MODALITIES[modality].check(one) for one in values]
    read: dict[str, list[Any]] = {}
    refusals = []
    for name in known:
        try:
            read[name] = [MODALITIES[name].check(one) for one in values]
        except ValueError as error:
            refusals.append(f"{name}: {error}")
    if len(read) == 1:
        return next(iter(read.items()))
    if read:
        raise ValueError(f"{values[0]!r} can be read as {' or '.join(read)}; say which by modality=...")
    raise ValueError(f"no modality of this model reads the value; {'; '.join(refusals)}")


def latent_modality(bank: ModalityBank, latent: Tensor) -> str:
    """The modality of latents with or without a batch axis, told by the number of their axes.

    Raises:
        ValueError: no codec has such latents, or several have.
    """
    shapes = {name: tuple(bank.codecs[name].latent_shape()) for name in bank.codecs}
    fit = [name for name, shape in shapes.items() if latent.ndim in (len(shape), len(shape) + 1)]
    if len(fit) != 1:
        known = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"latents are {tuple(latent.shape)}; say by modality=... which these are: {known}")
    return fit[0]


def injected(pipe: VersatileDiffusionPipeline, condition: Condition) -> Condition:
    """A condition ready for a run: a tensor given as its value is taken for context tokens, `Embeddings` are checked
    and taken for what they are.

    Raises:
        ValueError: embeddings of another modality or encoder, or tokens that the context stream cannot read.
    """
    value, negative = condition.value, condition.negative
    if isinstance(negative, Embeddings):
        condition = replace(condition, negative=_tokens(pipe, condition.modality, negative))
    if isinstance(value, Tensor):
        condition = replace(condition, value=None, tokens=value)
    elif isinstance(value, Embeddings) and value.kind == "latent":
        _check_fits(pipe, condition.modality, value)
        return replace(condition, value=pipe.bank.codecs[value.modality].decode(value.tensor))
    elif isinstance(value, Embeddings):
        condition = replace(condition, value=None, tokens=_tokens(pipe, condition.modality, value))
    if condition.tokens is not None:
        _check_tokens(pipe, condition.modality, condition.tokens)
    if isinstance(condition.negative, Embeddings):
        condition = replace(condition, negative=_tokens(pipe, condition.modality, condition.negative))
    if isinstance(condition.negative, Tensor):
        _check_tokens(pipe, condition.modality, condition.negative)
    return condition


def start_latents(pipe: VersatileDiffusionPipeline, data: str, start: Any) -> Any:
    """What generation of `data` begins from, with the latents taken out of `Embeddings`."""
    if not isinstance(start, Embeddings):
        return start
    if (start.kind, start.modality) != ("latent", data):
        raise ValueError(f"{data} latents are needed here; these are {start.modality} {start.kind} embeddings")
    start.check(pipe.bank)
    return start.tensor


def _tokens(pipe: VersatileDiffusionPipeline, modality: str, embeddings: Embeddings) -> Tensor:
    """The context tokens in them."""
    _check_fits(pipe, modality, embeddings)
    if embeddings.kind != "context":
        raise ValueError(f"context tokens are needed here; these are {modality} {embeddings.kind} embeddings")
    return embeddings.tensor


def _check_fits(pipe: VersatileDiffusionPipeline, modality: str, embeddings: Embeddings) -> None:
    if embeddings.modality != modality:
        raise ValueError(f"{embeddings.modality} embeddings are given where {modality} is needed")
    embeddings.check(pipe.bank)


def _check_tokens(pipe: VersatileDiffusionPipeline, modality: str, tokens: Tensor) -> None:
    width = pipe.unet.config.context_streams.get(modality, {}).get("width")
    if width is not None and tokens.ndim > 1 and tokens.shape[-1] != width:
        raise ValueError(
            f"tokens are {tuple(tokens.shape)}; the {modality} context stream of this model reads tokens (L, {width})"
        )
    if not bool(tokens.isfinite().all()):
        raise ValueError(f"the tokens of a {modality} condition have NaN or infinite entries")
