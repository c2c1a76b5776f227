"""Conversion of a model to our layout, the official layout (2023 names) or diffusers folders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import CLIPConfig

from versatile_diffusion.diffuser.unet import MultiFlowUNet
from versatile_diffusion.files import write_whole, write_whole_folder
from versatile_diffusion.interop import official
from versatile_diffusion.interop.names import autokl
from versatile_diffusion.interop.names.keymap import to_official
from versatile_diffusion.interop.read import official_optimus
from versatile_diffusion.interop.read.folders import Json
from versatile_diffusion.interop.read.found import CONFIG_FILE, PARTS, Found
from versatile_diffusion.interop.read.layouts import recognise
from versatile_diffusion.interop.read.tensors import open_tensors
from versatile_diffusion.interop.write import folders as hub_writer
from versatile_diffusion.interop.write.folders import WriteWeights, write_json
from versatile_diffusion.interop.write.tensors import write_pickle, write_safetensors
from versatile_diffusion.modalities.encoders.clip import CLIPImageContext, CLIPTextContext
from versatile_diffusion.modalities.image.autokl import AutoKLCodec
from versatile_diffusion.modalities.text.optimus import Optimus
from versatile_diffusion.printable import shown

if TYPE_CHECKING:
    from versatile_diffusion.pipeline.pipeline import VersatileDiffusionPipeline

PUBLISHED = {
    "codec-image": AutoKLCodec,
    "codec-text": Optimus,
    "encoder-text": CLIPTextContext,
    "encoder-image": CLIPImageContext,
}
"""Part classes that published layouts support."""
CHECKPOINT = "vd-four-flow-v1-0"
CLIP_FOLDER = "clip-vit-large-patch14"
FORMATS: dict[str, tuple[str, Callable[..., None]]] = {
    "safetensors": (".safetensors", write_safetensors),
    "pth": (".pth", write_pickle),
}


@dataclass(frozen=True)
class Conversion:
    """Result of `convert`.

    Args:
        folder: output folder.
        found: recognised layout of the output.
        sizes: bytes per file, by relative path.
        left_out: what the layout cannot hold.
    """

    folder: Path
    found: Found
    sizes: Mapping[str, int]
    left_out: tuple[str, ...] = ()


def convert(
    pipe: VersatileDiffusionPipeline,
    out: str | PathLike[str],
    to: str = "ours",
    dtype: torch.dtype | None = None,
    file_format: str = "safetensors",
) -> Conversion:
    """Write a model; the folder appears once complete.

    Args:
        out: output folder; must not exist.
        to: `"ours"`, `"official"` (names of 2023) or `"diffusers"`.
        dtype: dtype on disk; None keeps the dtype in memory.
        file_format: `"safetensors"`, or `"pth"` (a pickle of tensors, official names only).

    Raises:
        ValueError: an existing `out`, an unknown option, or a part that the layout cannot hold.
    """
    folder = check_target(out, to, file_format)
    if to != "ours":
        check_published(pipe)
    pipe.load_now()
    folder.parent.mkdir(parents=True, exist_ok=True)

    def written(draft: Path) -> None:
        draft.mkdir()
        LAYOUTS[to](pipe, draft, dtype, file_format)

    write_whole_folder(folder, written)
    sizes = {str(f.relative_to(folder)): f.stat().st_size for f in sorted(folder.rglob("*")) if f.is_file()}
    named = ("styles", "defaults", "vocabulary") if to != "ours" else ()
    return Conversion(folder, recognise(folder), sizes, tuple(n for n in named if pipe.config[n]))


def check_target(out: str | PathLike[str], to: str, file_format: str) -> Path:
    """Return the output folder. ValueError if it exists, or for unknown options."""
    for given, known, what in ((to, LAYOUTS, "layout"), (file_format, FORMATS, "file format")):
        if given not in known:
            raise ValueError(f"unknown {what} {shown(given)}; allowed: {', '.join(known)}")
    if file_format != "safetensors" and to != "official":
        raise ValueError(f"{file_format} files are only supported for the official layout; {to} uses safetensors")
    if Path(out).exists():
        raise ValueError(f"{out} exists already; give a new folder")
    return Path(out)


def check_published(pipe: VersatileDiffusionPipeline) -> None:
    """Raise ValueError if the published layouts cannot hold a part."""
    wrong = [f"{n} is a {type(p).__name__}" for n, p in pipe.bank.parts.items() if type(p) is not PUBLISHED.get(n)]
    for codec in pipe.bank.codecs.values():
        if isinstance(codec, Optimus) and (reason := official_optimus.unlike_official(codec)):
            wrong.append(f"codec-text has {reason}")
    if wrong:
        kinds = ", ".join(f"{name}: {kind.__name__}" for name, kind in PUBLISHED.items())
        raise ValueError(f"published layouts cannot hold this model: {'; '.join(wrong)}. They support {kinds}")


def official_configs(pipe: VersatileDiffusionPipeline) -> dict[str, Json]:
    """Return the original configuration per part, if the official files do not imply it."""
    codecs, configs = pipe.bank.codecs, {"diffuser": official.published_config(pipe.unet)}
    if "image" in codecs:
        vae = codecs["image"].vae
        configs["image-codec"] = autokl.published_config(vae.config, vae.config.sample_size)
    if "text" in codecs:
        configs["text-codec"] = official_optimus.published_config(codecs["text"])
    return configs


def official_states(pipe: VersatileDiffusionPipeline) -> dict[str, dict[str, Tensor]]:
    """Return the state dict per part with 2023 names, without prefix."""
    codecs = {_PART_OF[name]: part for name, part in pipe.bank.parts.items()}
    return {part: STATES[type(module)](module) for part, module in {"diffuser": pipe.unet, **codecs}.items()}


def _autokl_state(codec: AutoKLCodec) -> dict[str, Tensor]:
    return to_official(codec.vae.state_dict(), autokl.autokl_rules(len(codec.vae.config.block_out_channels)))


_PART_OF = dict(zip(PUBLISHED, PARTS[1:], strict=True))
STATES: dict[type, Callable[[Any], dict[str, Tensor]]] = {
    MultiFlowUNet: lambda unet: to_official(unet.state_dict()),
    AutoKLCodec: _autokl_state,
    Optimus: official_optimus.to_official,
    CLIPTextContext: lambda encoder: encoder.model.state_dict(),
    CLIPImageContext: lambda encoder: encoder.model.state_dict(),
}


def _ours(pipe: VersatileDiffusionPipeline, folder: Path, dtype: torch.dtype | None, _format: str) -> None:
    pipe.save_pretrained(folder)
    for file in sorted(folder.rglob("*.safetensors")) if dtype is not None else []:
        tensors = open_tensors(file)
        write_whole(file, partial(write_safetensors, state=tensors, dtype=dtype))


def _official(pipe: VersatileDiffusionPipeline, folder: Path, dtype: torch.dtype | None, file_format: str) -> None:
    suffix, write_file = FORMATS[file_format]

    def write(stem: Path, state: Mapping[str, Tensor]) -> None:
        write_file(stem.with_name(stem.name + suffix), state, dtype)

    states = official_states(pipe)
    write_json(folder / CONFIG_FILE, official_configs(pipe))
    write(folder / CHECKPOINT, states["diffuser"])
    if "image-codec" in states:
        write(folder / "kl-f8", states["image-codec"])
    _write_optimus(pipe, folder, write)
    if towers := [part for part in ("text-encoder", "image-encoder") if part in states]:
        write_safetensors(
            folder / CLIP_FOLDER / "model.safetensors",
            {n: t for part in towers for n, t in states[part].items()},
            dtype,
        )
        _write_clip_config(pipe.bank.encoders, folder / CLIP_FOLDER)


def _write_optimus(pipe: VersatileDiffusionPipeline, folder: Path, write: WriteWeights) -> None:
    if "text" in pipe.bank.codecs:
        codec = pipe.bank.codecs["text"]
        write(folder / "optimus-vae", official_optimus.to_official(codec))
        codec.tokens.encoder.model.save(str(folder), "bert-base-cased")
        codec.tokens.decoder.model.save(str(folder), "gpt2")


def _write_clip_config(encoders: Any, folder: Path) -> None:
    towers = {f"{kind}_config": encoders[name].model.config for name, kind in _SECTIONS.items() if name in encoders}
    width = next(iter(towers.values())).projection_dim
    CLIPConfig(projection_dim=width, **{kind: tower.to_dict() for kind, tower in towers.items()}).save_pretrained(
        folder
    )
    if "text" in encoders:
        hub_writer.write_clip_tokenizer(encoders["text"], folder)


_SECTIONS = {"text": "text", "image": "vision"}


def _diffusers(pipe: VersatileDiffusionPipeline, folder: Path, dtype: torch.dtype | None, _format: str) -> None:
    def write(stem: Path, state: Mapping[str, Tensor]) -> None:
        write_safetensors(stem.with_name(stem.name + ".safetensors"), state, dtype)

    codecs, encoders = pipe.bank.codecs, pipe.bank.encoders
    side = codecs["image"].latent_shape()[-1] if "image" in codecs else hub_writer.LATENT_SIDE
    hub_writer.write_unets(pipe.unet, folder, side, write)
    writers: tuple[tuple[str, Any, Callable[..., None]], ...] = (
        ("image", codecs, hub_writer.write_image_codec),
        ("text", encoders, hub_writer.write_text_encoder),
        ("image", encoders, hub_writer.write_image_encoder),
    )
    for name, modules, writer in writers:
        if name in modules:
            writer(modules[name], folder, write)
    if "text" in codecs:
        write_json(folder / CONFIG_FILE, {"text-codec": official_optimus.published_config(codecs["text"])})
    _write_optimus(pipe, folder, write)  # for which diffusers has no place: in files of its own
    hub_writer.write_index(folder)


LAYOUTS = {"ours": _ours, "official": _official, "diffusers": _diffusers}
