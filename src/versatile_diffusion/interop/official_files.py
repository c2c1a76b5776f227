"""The published file set of 2023, from a folder to the components of a pipeline."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from versatile_diffusion.interop.autokl import build_autokl, infer_autokl_config
from versatile_diffusion.interop.clip import build_tower
from versatile_diffusion.interop.official import build_diffuser
from versatile_diffusion.interop.official_optimus import FULL_SIZE as OPTIMUS
from versatile_diffusion.interop.official_optimus import build_optimus
from versatile_diffusion.modalities.autokl import AutoKLCodec
from versatile_diffusion.modalities.bank import ModalityBank
from versatile_diffusion.modalities.base import Codec, ContextEncoder
from versatile_diffusion.modalities.clip import CLIPImageContext, CLIPTextContext, load_tokenizer
from versatile_diffusion.modalities.optimus.tokens import official_tokenizers

State = dict[str, Tensor]
Config = Mapping[str, Any]
Builder = Callable[[Config | None, State, list[Path]], nn.Module]

DIFFUSER: dict[str, Any] = {
    "image_channels": 4,
    "text_channels": 768,
    "context_dim": 768,
    "model_channels": 320,
    "channel_mult": [1, 2, 4, 4],
    "num_res_blocks": [2, 2, 2, 2],
    "with_attn": [True, True, True, False],
    "second_dim": [4, 4, 4, 4],
    "num_heads": 8,
}
"""The diffuser's configuration at full size; the other parts' are told by their weights or by their own files."""

_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
_OPTIMUS_VOCABULARIES = (
    ("bert-base-cased-vocab.txt", "bert-base-cased/vocab.txt"),
    ("gpt2-vocab.json", "gpt2/vocab.json"),
    ("gpt2-merges.txt", "gpt2/merges.txt"),
)


@dataclass(frozen=True)
class Part:
    """One row of the file set.

    Args:
        name: by which it is asked for.
        prefix: of its entries in a checkpoint of the whole model.
        files: stems of the files it has for itself, the first that exists is read.
        others: further files it needs, each under any one of several names.
        build: `(config or None, state, other files) -> module`.
    """

    name: str
    prefix: str
    files: tuple[str, ...]
    others: tuple[tuple[str, ...], ...]
    build: Builder


def _diffuser(config: Config | None, state: State, _files: list[Path]) -> nn.Module:
    return build_diffuser(config or DIFFUSER, {f"diffuser.{name}": value for name, value in state.items()})


def _autokl(config: Config | None, state: State, _files: list[Path]) -> nn.Module:
    return AutoKLCodec.from_autoencoder(build_autokl(config or infer_autokl_config(state), state))


def _optimus(config: Config | None, state: State, files: list[Path]) -> nn.Module:
    return build_optimus(config or OPTIMUS, state).set_tokenizers(*official_tokenizers(*files))


def _clip_text(config: Config | None, state: State, files: list[Path]) -> nn.Module:
    encoder = build_tower(CLIPTextContext, config or _read_json(files[0]), state)
    encoder.tokenizer = load_tokenizer(files[0].parent)
    if encoder.tokenizer is None:
        raise ValueError(f"{files[0].parent} lacks CLIP's tokenizer: tokenizer.json, or vocab.json and merges.txt")
    return encoder


def _clip_image(config: Config | None, state: State, files: list[Path]) -> nn.Module:
    return build_tower(CLIPImageContext, config or _read_json(files[0]), state)


def _read_json(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


_CLIP_FILES = ("*clip*/model", "*clip*/pytorch_model")
_CLIP_CONFIG = (("*clip*/config.json",),)
PARTS = {
    part.name: part
    for part in (
        Part("diffuser", "diffuser.", ("vd-four-flow-v1-0", "vd-four-flow-v1-0-fp16"), (), _diffuser),
        Part("image-codec", "vae.image.", ("kl-f8",), (), _autokl),
        Part("text-codec", "vae.text.", ("optimus-vae",), _OPTIMUS_VOCABULARIES, _optimus),
        Part("text-encoder", "ctx.text.model.", _CLIP_FILES, _CLIP_CONFIG, _clip_text),
        Part("image-encoder", "ctx.image.model.", _CLIP_FILES, _CLIP_CONFIG, _clip_image),
    )
}


def load_official(
    path: str | PathLike[str],
    dtype: torch.dtype = torch.float32,
    *,
    parts: Collection[str] = tuple(PARTS),
    config: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Reads the published files of 2023 and returns `{"unet": ..., "bank": ...}`.

    The diffuser's checkpoint may hold the diffuser alone or more of the model; what it lacks comes from the files
    beside it: `kl-f8.pth`, `optimus-vae.pth` with BERT's and GPT-2's vocabularies, and a folder with CLIP as
    transformers saves it (its name has "clip" in it). Safetensors of the same names do as well.

    Args:
        path: the folder, or the diffuser's checkpoint in it.
        dtype: of the weights in memory.
        parts: of `PARTS`, those to load; the diffuser always is.
        config: per part, the original's configuration where it is not that of the published weights.

    Raises:
        ValueError: files are missing or damaged, or do not hold what they should. It names what is missing and what
            was found.
    """
    wanted = dict.fromkeys(["diffuser", *parts])
    if unknown := [name for name in wanted if name not in PARTS]:
        raise ValueError(f"unknown parts {', '.join(unknown)}; known are {', '.join(PARTS)}")
    files = _Files(Path(path))
    files.check([PARTS[name] for name in wanted])
    unet, *rest = (
        part.build((config or {}).get(part.name), files.state(part), files.others(part)).to(dtype)
        for part in (PARTS[name] for name in wanted)
    )
    codecs = {module.modality: module for module in rest if isinstance(module, Codec)}
    encoders = {module.modality: module for module in rest if isinstance(module, ContextEncoder)}
    return {"unet": unet, "bank": ModalityBank(codecs, encoders).eval()}


class _Files:
    """What lies in a folder (or one level below it), and which entries of it belong to which part."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise ValueError(f"{path}: no such file or folder; give the folder of published weights, or its checkpoint")
        self.folder = path if path.is_dir() else path.parent
        self.checkpoint = path if path.is_file() else self._weights(PARTS["diffuser"])
        self._read: dict[Path, State] = {}

    def check(self, parts: Iterable[Part]) -> None:
        """Raises ValueError naming everything that is missing, before anything large is built."""
        missing = []
        for part in parts:
            if not self.state(part):
                missing.append(f"{' or '.join(part.files)} (.pth or .safetensors), or {part.prefix}* in the checkpoint")
            missing += [" or ".join(names) for names in part.others if self._first(names) is None]
        if missing:
            found = sorted(str(file.relative_to(self.folder)) for file in self._all() if file.is_file())
            raise ValueError(
                f"{self.folder} lacks: {'; '.join(dict.fromkeys(missing))}. "
                f"Found: {', '.join(found[:40]) or 'nothing'}{self._contents()}"
            )

    def state(self, part: Part) -> State:
        """The entries of a part without their prefix, those of the checkpoint first; empty where there are none."""
        if self.checkpoint is not None:
            whole = self._load(self.checkpoint)
            inside = {n.removeprefix(part.prefix): value for n, value in whole.items() if n.startswith(part.prefix)}
            if inside or part.name == "diffuser":
                return inside
        own = self._weights(part)
        return {} if own is None else self._load(own)

    def others(self, part: Part) -> list[Path]:
        """The further files of a part, in its order."""
        return [file for names in part.others if (file := self._first(names)) is not None]

    def _weights(self, part: Part) -> Path | None:
        return self._first([stem + suffix for stem in part.files for suffix in _SUFFIXES])

    def _first(self, patterns: Iterable[str]) -> Path | None:
        return next(
            (file for p in patterns for start in ("", "*/") for file in sorted(self.folder.glob(start + p))), None
        )

    def _all(self) -> list[Path]:
        return [*self.folder.glob("*"), *self.folder.glob("*/*")]

    def _contents(self) -> str:
        """How the checkpoint's names begin, where there is one."""
        if self.checkpoint is None:
            return ""
        beginnings = dict.fromkeys(".".join(name.split(".")[:2]) for name in self._load(self.checkpoint))
        return f". {self.checkpoint.name} holds: {', '.join([*beginnings][:10]) or 'nothing'}"

    def _load(self, file: Path) -> State:
        if file not in self._read:
            self._read[file] = read_weights(file)
        return self._read[file]


def read_weights(file: Path) -> State:
    """The tensors of a `.safetensors` file or of a pickled state dict, mapped from the disk where that is possible.

    Raises:
        ValueError: the file is damaged, or holds something else than tensors.
    """
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{file} cannot be read as weights: {error}") from error
    state = state.get("state_dict", state) if isinstance(state, dict) else {}
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise ValueError(f"{file} holds no state dict")
    return tensors
