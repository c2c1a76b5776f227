"""Results as responses hold them."""

from __future__ import annotations

import base64
import hashlib
from io import BytesIO
from typing import Any

from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.pipeline.output import Output
from versatile_diffusion.records.png import save_png, write_value
from versatile_diffusion.records.record import record_of

MEDIA = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}
"""Formats of images, and what Pillow calls them."""


def image_text(image: Any, form: str, quality: int, record: dict[str, Any] | None) -> str:
    """An image as base64 of a file; a PNG file holds its record."""
    stream = BytesIO()
    if form == "png" and record is not None:
        save_png(image, stream, record)
    else:
        image.save(stream, format=MEDIA[form], **({} if form == "png" else {"quality": quality}))
    return base64.b64encode(stream.getvalue()).decode()


def value_text(data: str, value: Any, form: str, record: dict[str, Any]) -> str:
    """A value of any modality: a text as it is, an image in a format, all else as base64 of its file."""
    known = MODALITIES[data]
    if known.plain:
        return str(value)
    if known.grid and known.embeds:
        return image_text(value, form, 95, record)
    stream = BytesIO()
    write_value(data, value, stream, record)
    return base64.b64encode(stream.getvalue()).decode()


def digest_of(data: str, value: Any) -> str:
    """The hash of a value: of a text's bytes, or of the numbers of all else (as records have it)."""
    if isinstance(value, str):
        return hashlib.sha256(value.encode()).hexdigest()
    digest: str = record_of(None, value, MODALITIES[data].numbers)["sha256"]
    return digest


def items_of(output: Output, form: str, record: dict[str, Any]) -> list[dict[str, Any]]:
    """The items of an output: index, seed, prompt, value and its hash."""
    rows = []
    for k, item in enumerate(output):
        value = item.values[0]
        told = record | {name: item.settings[name] for name in ("index", "seed", "prompt")}
        row = {"index": k, "seed": item.settings["seed"], "prompt": item.settings["prompt"]}
        rows.append(
            row | {"value": value_text(output.data, value, form, told), "sha256": digest_of(output.data, value)}
        )
    return rows
