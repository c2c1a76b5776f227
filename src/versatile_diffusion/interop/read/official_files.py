"""Building of pipeline components from published weights of any layout."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights

from versatile_diffusion.interop.names.autokl import autokl_config, autokl_rules, infer_autokl_config
from versatile_diffusion.interop.names.keymap import DIFFUSER, find_ours
from versatile_diffusion.interop.official import FULL_SIZE, empty_diffuser
from versatile_diffusion.interop.read.clip import empty_tower, tower_name
from versatile_diffusion.interop.read.found import HIDDEN_TEXT_ENCODER, PARTS, Found
from versatile_diffusion.interop.read.layouts import recognise
from versatile_diffusion.interop.read.official_optimus import FULL_SIZE as OPTIMUS
from versatile_diffusion.interop.read.official_optimus import check_tied, empty_optimus
from versatile_diffusion.interop.read.official_optimus import ours as optimus_name
from versatile_diffusion.interop.read.tensors import Tensors
from versatile_diffusion.layers.on_use import LoadsOnUse
from versatile_diffusion.modalities.bank import ModalityBank
from versatile_diffusion.modalities.base import Codec, ContextEncoder
from versatile_diffusion.modalities.encoders.clip import CLIPImageContext, CLIPTextContext, load_tokenizer
from versatile_diffusion.modalities.encoders.clip_hidden import CLIPHiddenTextContext
from versatile_diffusion.modalities.image.autokl import AutoKLCodec
from versatile_diffusion.modalities.text.optimus.tokens import official_tokenizers
from versatile_diffusion.reading import read_json, reading
from versatile_diffusion.tasks import TASKS

logger = logging.getLogger(__name__)
Config = Mapping[str, Any]
Names = Callable[[str], "str | None"]
Blueprint = Callable[["Config | None", Tensors, tuple[Path, ...]], tuple[LoadsOnUse, Names]]


def _diffuser(config: Config | None, tensors: Tensors, _files: tuple[Path, ...]) -> tuple[LoadsOnUse, Names]:
    return empty_diffuser(config or FULL_SIZE, tensors), lambda name: find_ours(name, DIFFUSER)


def _autokl(config: Config | None, tensors: Tensors, _files: tuple[Path, ...]) -> tuple[LoadsOnUse, Names]:
    arguments = autokl_config(config or infer_autokl_config(tensors))
    with init_empty_weights(include_buffers=False):
        codec = AutoKLCodec(arguments)
    rules = autokl_rules(len(arguments["block_out_channels"]))
    return codec, lambda name: f"vae.{find_ours(name, rules)}"


def _optimus(config: Config | None, tensors: Tensors, files: tuple[Path, ...]) -> tuple[LoadsOnUse, Names]:
    check_tied(tensors, every=1009)
    return empty_optimus(config or OPTIMUS).set_tokenizers(*official_tokenizers(*files)), optimus_name


def _clip_text(
    config: Config | None, _tensors: Tensors, files: tuple[Path, ...], kind: type[CLIPTextContext] = CLIPTextContext
) -> tuple[LoadsOnUse, Names]:
    encoder = empty_tower(kind, config or read_json(files[0]))
    encoder.tokenizer = load_tokenizer(files[0].parent)
    if encoder.tokenizer is None:
        raise ValueError(f"{files[0].parent} lacks CLIP's tokenizer: tokenizer.json, or vocab.json and merges.txt")
    return encoder, partial(tower_name, kind)


def _clip_image(config: Config | None, _tensors: Tensors, files: tuple[Path, ...]) -> tuple[LoadsOnUse, Names]:
    return empty_tower(CLIPImageContext, config or read_json(files[0])), partial(tower_name, CLIPImageContext)


BLUEPRINTS: dict[str, Blueprint] = {
    **dict(zip(PARTS, (_diffuser, _autokl, _optimus, _clip_text, _clip_image), strict=True)),
    HIDDEN_TEXT_ENCODER: partial(_clip_text, kind=CLIPHiddenTextContext),
}
"""Builders per part (or kind of it): `(configuration or None, tensors with 2023 names, further files)` to the network
on the meta device, and the mapping of tensor names to its own (None for unused ones)."""


def plan_part(found: Found, part: str, config: Config | None = None) -> tuple[LoadsOnUse, Names]:
    """Build a recognised part without weights, and its tensor name mapping."""
    blueprint = BLUEPRINTS[found.kinds.get(part, part)]
    return blueprint(config or found.configs.get(part), found.tensors[part], found.files.get(part, ()))


def load_official(
    path: str | PathLike[str] | Found,
    dtype: torch.dtype = torch.float32,
    *,
    parts: Collection[str] | None = None,
    config: Mapping[str, Mapping[str, Any]] | None = None,
    layout: str | None = None,
    tasks: Collection[str] | None = None,
    on_use: bool = False,
) -> dict[str, Any]:
    """Load published weights and return `{"unet": ..., "bank": ...}`.

    Args:
        path: path in a layout known to `layouts.recognise`, or its result.
        dtype: dtype of the weights in memory.
        parts: subset of `PARTS` to load besides the diffuser; default: all that the streams require and the layout can
            hold.
        config: original configuration per part, if not that of the published weights.
        layout: layout, if ambiguous, see `layouts.recognise`.
        tasks: names of `TASKS`; only their streams and parts are loaded, others may be missing.
        on_use: keep weights on disk until used.

    Raises:
        ValueError: missing, damaged or unexpected files, with a list of what is missing and what exists.
    """
    if unknown := [name for name in parts or () if name not in PARTS]:
        raise ValueError(f"unknown parts {', '.join(unknown)}; known: {', '.join(PARTS)}")
    found = path if isinstance(path, Found) else recognise(path, layout, config)
    found = found if tasks is None else found.keep_streams(_streams(tasks))
    wanted = found.needed if parts is None else tuple(dict.fromkeys(["diffuser", *parts]))
    found.check(wanted)
    logger.info("%s is %s", found.path, found)
    unet, *rest = (_load(found, part, (config or {}).get(part), dtype, on_use) for part in wanted)
    codecs = {module.modality: module for module in rest if isinstance(module, Codec)}
    encoders = {module.modality: module for module in rest if isinstance(module, ContextEncoder)}
    return {"unet": unet, "bank": ModalityBank(codecs, encoders).eval()}


def _load(found: Found, part: str, config: Config | None, dtype: torch.dtype, on_use: bool) -> LoadsOnUse:
    try:
        with reading(found.path, f"a {part}"):
            network, names = plan_part(found, part, config)
            network.load_on_use(found.tensors[part].renamed(names), dtype)
    except ValueError as error:
        raise ValueError(f"the {part} of {found.path} cannot be used: {error}. `versatile verify` lists all") from error
    return network if on_use else network.load_now()


def _streams(tasks: Collection[str]) -> set[str]:
    if unknown := [name for name in tasks if name not in TASKS]:
        raise ValueError(f"unknown tasks {', '.join(unknown)}; known: {', '.join(TASKS)}")
    flows = [TASKS[name].flow for name in tasks]
    return {f"data.{flow.data}" for flow in flows} | {f"context.{c}" for flow in flows for c in flow.contexts}
