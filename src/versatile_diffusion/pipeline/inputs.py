"""Alternatives to raw values: context tokens, latents, embeddings, and batches of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from versatile_diffusion.choices import chosen
from versatile_diffusion.flow import Condition
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.modalities.bank import ModalityBank
from versatile_diffusion.numeric import as_tensor, check_finite, sequence, widen
from versatile_diffusion.pipeline.model import Model
from versatile_diffusion.printable import shown
from versatile_diffusion.records.embeddings import Embeddings

EACH = "give one, or latents of one per prompt or item: start=pipe.encode_latent(values)"
OWN_SEQUENCES = (str, bytes, bytearray, list, tuple)
"""Sequences that are one value, or a list already."""


def as_list(value: Any) -> Any:
    """Convert a batch of images, (B, H, W, C) or a tensor (B, C, H, W), an array of texts, or another sequence (e.g. a
    column of a data set) to a list; else return as is."""
    if hasattr(value, "to_numpy") and not isinstance(value, np.ndarray | Tensor):
        value = value.to_numpy()
    if isinstance(value, Tensor) and value.ndim == 4:
        value = widen(value.detach()).movedim(1, -1).cpu().numpy()
    if isinstance(value, np.ndarray) and value.dtype.kind in "UO":
        return value.tolist()
    if isinstance(value, np.ndarray):
        return list(value) if value.ndim == 4 else value
    return list(value) if isinstance(value, Sequence) and not isinstance(value, OWN_SEQUENCES) else value


def read_values(pipe: Model, value: Any, modality: str | None, known: Sequence[str]) -> tuple[str, list[Any]]:
    """Return the modality of a value or list of values, and the checked raw values.

    Args:
        pipe: model whose modalities are tried.
        value: as given by the user.
        modality: its modality; inferred by default.
        known: candidate modalities.

    Raises:
        ValueError: no modality accepts it (with reasons), or several do.
    """
    values = list(value) if isinstance(value, list | tuple) else [value]
    if not values:
        raise ValueError("an empty list of values")
    if modality is not None:
        chosen("modality", modality, MODALITIES)
        return modality, [_raw(pipe, modality, one) for one in values]
    read: dict[str, list[Any]] = {}
    refusals = []
    for name in known:
        try:
            read[name] = [_raw(pipe, name, one) for one in values]
        except ValueError as error:
            refusals.append(f"{name}: {error}")
    if len(read) == 1:
        return next(iter(read.items()))
    if read:
        raise ValueError(f"{shown(values[0])} can be read as {' or '.join(read)}; specify modality=...")
    raise ValueError(f"no modality of this model accepts the value; {'; '.join(refusals)}")


def _raw(pipe: Model, modality: str, value: Any) -> Any:
    """Check a raw value; context tokens are refused."""
    if (tokens := tokens_in(pipe, modality, value)) is not None:
        raise ValueError(
            f"context tokens {tuple(tokens.shape)} given, but a value of modality {shown(modality)} is required"
        )
    return MODALITIES[modality].check(value)


def tokens_in(pipe: Model, modality: str, value: Any) -> Tensor | None:
    """Return the context tokens (L, D) or (B, L, D) given in place of a raw value; None for a raw value.

    A tensor is tokens unless it is an image (C, H, W) or a batch of images. A float array whose last axis equals the
    token width is tokens, too; if it could also be an image, it must contain negative numbers, which images cannot.

    Args:
        pipe: model whose context streams read the tokens.
        modality: modality of the condition.
        value: as given by the user; a list must hold only tokens, or none.

    Raises:
        ValueError: an ambiguous value, or a mixed list.
    """
    if isinstance(value, Embeddings):
        return _tokens(pipe, modality, value)
    if isinstance(value, list | tuple):
        found = [tokens_in(pipe, modality, one) for one in value]
        given = [one if one.ndim == 3 else one[None] for one in found if one is not None]
        if not given:
            return None
        if len(given) < len(found) or len({one.shape[1:] for one in given}) > 1:
            raise ValueError(f"a list for a {modality} condition must hold only tokens of one shape, or none")
        return torch.cat(given)
    if not isinstance(value, np.ndarray | Tensor) or value.ndim not in (2, 3):
        return None
    width = pipe.unet.config.context_streams.get(modality, {}).get("width")
    numbers = as_tensor(value, f"an array for a {modality} condition")
    readable = _readable(modality, value)
    if value.shape[-1] != width or not str(value.dtype).removeprefix("torch.").startswith(("float", "bfloat")):
        return numbers if isinstance(value, Tensor) and not readable else None
    if readable:
        check_finite(numbers, f"the tokens of a {modality} condition, or the levels of an image {tuple(value.shape)},")
    if readable and not bool((numbers < 0).any()):
        raise ValueError(
            f"an array {tuple(value.shape)} without negative numbers could be context tokens of width {width} or a "
            f"value of modality {shown(modality)}; give tokens as Condition(..., tokens=...), an image as a PIL image"
        )
    return numbers


def _readable(modality: str, value: Any) -> bool:
    """Return whether an array of this shape could be a raw value."""
    try:
        MODALITIES[modality].check(torch.zeros(value.shape) if isinstance(value, Tensor) else np.zeros(value.shape))
    except ValueError:
        return False
    return True


def latent_modality(bank: ModalityBank, latent: Tensor) -> str:
    """Infer the modality of latents, with or without batch axis, from their number of axes, then their shape.

    Raises:
        ValueError: no codec, or several, match.
    """
    shapes = {name: tuple(bank.codecs[name].latent_shape()) for name in bank.codecs}
    fit = [name for name, shape in shapes.items() if latent.ndim in (len(shape), len(shape) + 1)]
    if len(fit) > 1:  # same number of axes: compare shapes
        fit = [name for name in fit if tuple(latent.shape[-len(shapes[name]) :]) == shapes[name]]
    if len(fit) != 1:
        known = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"latents are {tuple(latent.shape)}; specify modality=..., one of: {known}")
    return fit[0]


def check_conditions(conditions: Any) -> list[Condition]:
    """Check and return a list of conditions."""
    found = sequence(conditions)
    if found is None or not all(isinstance(condition, Condition) for condition in found):
        raise ValueError(f"conditions is {shown(conditions)}; it must be a list of Condition")
    return found


def unwrap_embeddings(pipe: Model, condition: Condition) -> Condition:
    """Prepare a condition for a run: unwrap tokens given as its value (see `tokens_in`), and check `Embeddings`.

    Raises:
        ValueError: embeddings of another modality or encoder, or tokens that do not fit the context stream.
    """
    modality, value, negative = condition.modality, as_list(condition.value), as_list(condition.negative)
    if isinstance(value, Embeddings) and value.kind == "latent":
        _check_fits(pipe, modality, value)
        value = pipe.bank.codecs[value.modality].decode(value.tensor)
    away = None if negative is None else tokens_in(pipe, modality, negative)
    if away is not None:
        _check_tokens(pipe, modality, negative := away)
    tokens = condition.tokens if value is None else tokens_in(pipe, modality, value)
    if isinstance(tokens, Embeddings):
        tokens = _tokens(pipe, modality, tokens)
    if tokens is not None:
        tokens = as_tensor(tokens, f"tokens of a {modality} condition")
        _check_tokens(pipe, modality, tokens)
        value = None
    return replace(condition, value=value, tokens=tokens, negative=negative)


def latents_to_decode(pipe: Model, latent: Any, modality: str | None) -> tuple[str, Tensor, bool]:
    """Return the modality of latents, the batch (B, ...), and whether a single latent was given.

    Args:
        pipe: model whose codecs decode them.
        latent: tensor, array or `Embeddings`.
        modality: its modality; inferred if None.

    Raises:
        ValueError: a wrong shape, or latents of another codec.
    """
    if isinstance(latent, Embeddings):
        given, modality = start_latents(pipe, latent.modality, latent), latent.modality
    else:
        given = as_tensor(latent, "latents")
    modality = modality or latent_modality(pipe.bank, given)
    axes = len(pipe.bank.codecs[modality].latent_shape())
    if given.ndim not in (axes, axes + 1):
        raise ValueError(f"{modality} latents have {axes} axes, or one more for a batch; not {tuple(given.shape)}")
    batch = given if given.ndim > axes else given[None]
    if not len(batch):
        raise ValueError(f"the batch of {modality} latents is empty: {tuple(given.shape)}")
    return modality, batch, given.ndim == axes


def start_latents(pipe: Model, data: str, start: Any) -> Any:
    """Return the init value of a generation: latents of any form as a tensor, or a checked raw value. An array is
    latents unless it can be a raw value, alone or as a batch of one, and has another number of channels."""
    if isinstance(start, list | tuple) and len(start) == 1:
        (start,) = start
    if isinstance(start, list | tuple):
        raise ValueError(f"start is {len(start)} values; {EACH}")
    if isinstance(start, np.ndarray | Tensor) and data in pipe.bank.codecs:
        shape = pipe.bank.codecs[data].latent_shape()
        alone = start[0] if start.ndim == 4 and len(start) == 1 else start
        other = start.shape[-len(shape) :][:1] != shape[:1]
        if other and start.ndim == 4 and len(start) > 1 and _readable(data, start[0]):
            raise ValueError(f"start is a batch of {len(start)} images; {EACH}")
        raw = other and _readable(data, alone)
        return MODALITIES[data].check(alone) if raw else as_tensor(start, f"{data} latents")
    if not isinstance(start, Embeddings):
        return start
    if (start.kind, start.modality) != ("latent", data):
        raise ValueError(f"{data} latents are required; given are {start.modality} {start.kind} embeddings")
    start.check(pipe.bank)
    return start.tensor


def _tokens(pipe: Model, modality: str, embeddings: Embeddings) -> Tensor:
    """Return the context tokens of embeddings."""
    _check_fits(pipe, modality, embeddings)
    if embeddings.kind != "context":
        raise ValueError(f"context tokens are required; given are {modality} {embeddings.kind} embeddings")
    return embeddings.tensor


def _check_fits(pipe: Model, modality: str, embeddings: Embeddings) -> None:
    if embeddings.modality != modality:
        raise ValueError(f"{embeddings.modality} embeddings given, but {modality} is required")
    embeddings.check(pipe.bank)


def _check_tokens(pipe: Model, modality: str, tokens: Tensor) -> None:
    width = pipe.unet.config.context_streams.get(modality, {}).get("width")
    if width is not None and tokens.ndim > 1 and tokens.shape[-1] != width:
        raise ValueError(
            f"tokens are {tuple(tokens.shape)}; the {modality} context stream of this model reads tokens (L, {width})"
        )
    check_finite(tokens, f"the tokens of a {modality} condition")
