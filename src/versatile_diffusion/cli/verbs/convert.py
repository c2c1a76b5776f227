"""`versatile convert`: convert a model to another layout."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from versatile_diffusion.choices import chosen
from versatile_diffusion.cli.io.console import note, show, show_json, working
from versatile_diffusion.cli.options import Json, among, models
from versatile_diffusion.cli.verbs.verify import LAYOUT_HELP

if TYPE_CHECKING:
    from versatile_diffusion.interop.convert import Conversion


ON_DISK = ("float32", "float16", "bfloat16")


class Target(StrEnum):
    """Layouts to write."""

    OURS = "ours"
    OFFICIAL = "official"
    DIFFUSERS = "diffusers"


class Format(StrEnum):
    """File format of the weights."""

    SAFETENSORS = "safetensors"
    PTH = "pth"


def convert(
    source: Annotated[
        str,
        typer.Argument(help="Checkpoint, folder in any layout, shipped model or hub id.", autocompletion=models),
    ],
    out: Annotated[Path, typer.Argument(help="Output folder; must not exist.")],
    to: Annotated[
        Target,
        typer.Option(
            help="Target layout: ours, the official file set (2023 names), or a diffusers folder (image_unet, "
            "text_unet, vae, ...)."
        ),
    ] = Target.OURS,
    dtype: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"Precision on disk: {', '.join(ON_DISK)}; default: as in the source.",
            autocompletion=among("dtype"),
        ),
    ] = None,
    file_format: Annotated[
        Format, typer.Option("--format", help="File format for --to official; others use safetensors.")
    ] = Format.SAFETENSORS,
    layout: Annotated[str | None, typer.Option(help=LAYOUT_HELP)] = None,
    json: Json = False,
) -> None:
    """Convert a model from any supported layout to another. The output folder appears once it is complete."""
    import torch

    from versatile_diffusion import VersatileDiffusionPipeline
    from versatile_diffusion.interop import convert as conversion
    from versatile_diffusion.interop.read.layouts import recognise
    from versatile_diffusion.pipeline.models import fetch_model, find_model

    if dtype is not None:
        chosen("dtype", dtype, ON_DISK)
    conversion.check_target(out, to, file_format)
    with working(f"inspecting {source}"):
        place = fetch_model(find_model(source), {})
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


def facts_of(source: str, written: Conversion) -> dict[str, Any]:
    """Summarise the conversion as plain JSON."""
    return {
        "source": source,
        "folder": str(written.folder),
        "layout": written.found.layout,
        "streams": list(written.found.streams),
        "bytes": dict(written.sizes),
        "left_out": list(written.left_out),
    }


def show_summary(written: Conversion) -> None:
    """Print the summary as a table."""
    for name, size in written.sizes.items():
        show(f"{size:>14,}  {name}")
    show(f"{sum(written.sizes.values()):>14,}  bytes in total; {written.folder} is now {written.found}")
    if written.left_out:
        note(f"omitted, since this layout cannot hold it: {', '.join(written.left_out)}")
