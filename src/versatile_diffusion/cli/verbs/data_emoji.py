"""`versatile data emoji`: the emoji set, from public npm packages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from versatile_diffusion.cli.options import Json


def emoji(
    out: Annotated[Path, typer.Option(help="Folder to build in; an interrupted build is resumed.")],
    size: Annotated[int, typer.Option(help="Side of the images in pixels.")] = 64,
    workers: Annotated[int, typer.Option(help="Processes that render.")] = 2,
    edition: Annotated[
        int, typer.Option(help="2: the 500 concepts that are drawn well in many styles; 1: all 1,652.")
    ] = 2,
    json: Json = False,
) -> None:
    """Build the emoji set: 14 drawing styles of 500 concepts with captions, from public npm packages."""
    from versatile_diffusion.cli.io.console import note, show_json
    from versatile_diffusion.cli.io.files import check_folder
    from versatile_diffusion.cli.io.sets import show_counts, summary_of
    from versatile_diffusion.recipes.emoji.data import build_emoji

    check_folder(out)
    manifest = build_emoji(out, size=size, workers=workers, edition=edition)
    if json:
        return show_json(summary_of(out, manifest))
    show_counts(manifest)
    for reason, count in manifest.left_out.items():
        note(f"{count} concepts skipped: {reason}")
    note(f"{out / 'manifest.json'} lists the licences; {out / 'contact_sheet.png'} shows the styles")
