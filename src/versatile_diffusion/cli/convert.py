"""`versatile convert`: a model from any layout to another."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from versatile_diffusion.cli.console import note, show, show_json, working
from versatile_diffusion.cli.options import Json, models
from versatile_diffusion.cli.verify import LAYOUT_HELP

if TYPE_CHECKING:
    from versatile_diffusion.interop.convert import Written


class Target(StrEnum):
    """Layouts that can be written."""

    OURS = "ours"
    OFFICIAL = "official"
    DIFFUSERS = "diffusers"


class Precision(StrEnum):
    """Of the weights on disk."""

    FLOAT32 = "float32"
    FLOAT16 = "float16"
    BFLOAT16 = "bfloat16"


class Format(StrEnum):
    """Of the files of weights."""

    SAFETENSORS = "safetensors"
    PTH = "pth"


def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="A checkpoint, a folder in any layout, a shipped model, or a hub id.", autocompletion=models
        ),
    ],
    out: Annotated[Path, typer.Argument(help="The folder to make; it must not exist.")],
    to: Annotated[
        Target,
        typer.Option(
            help="The layout to write: this library's own, the official file set with the names of 2023, or the "
            "folders of diffusers (image_unet, text_unet, vae, ...)."
        ),
    ] = Target.OURS,
    dtype: Annotated[Precision | None, typer.Option(help="Precision on disk; as in the source if left out.")] = None,
    file_format: Annotated[
        Format, typer.Option("--format", help="Of the files that --to official writes; others are safetensors.")
    ] = Format.SAFETENSORS,
    layout: Annotated[str | None, typer.Option(help=LAYOUT_HELP)] = None,
    json: Json = False,
) -> None:
    """Write a model in another layout, whichever it is in now. The new folder appears when everything is in it."""
    import torch

    from versatile_diffusion import VersatileDiffusionPipeline
    from versatile_diffusion.interop import convert as conversion
    from versatile_diffusion.interop.layouts import recognise
    from versatile_diffusion.sampling.models import fetched, find_model

    conversion.check_target(out, to, file_format)
    with working(f"looking at {source}"):
        place = fetched(find_model(source), {})
        found = recognise(place, layout)
    note(f"found {found}")
    with working(f"writing {out}"):
        options: dict[str, Any] = {} if layout is None else {"layout": layout}
        pipe = VersatileDiffusionPipeline.from_pretrained(place, found.dtype, **options)
        precision = None if dtype is None else getattr(torch, dtype)
        written = conversion.convert(pipe, out, to, precision, file_format)
    if json:
        show_json(facts_of(str(found), written))
    else:
        show_summary(written)


def facts_of(source: str, written: Written) -> dict[str, Any]:
    """What was done, as plain JSON."""
    return {
        "source": source,
        "folder": str(written.folder),
        "layout": written.found.layout,
        "streams": list(written.found.streams),
        "bytes": dict(written.sizes),
        "left_out": list(written.left_out),
    }


def show_summary(written: Written) -> None:
    """For people."""
    for name, size in written.sizes.items():
        show(f"{size:>14,}  {name}")
    show(f"{sum(written.sizes.values()):>14,}  bytes in all; {written.folder} is now {written.found}")
    if written.left_out:
        note(f"left out, since the layout has no place for it: {', '.join(written.left_out)}")
