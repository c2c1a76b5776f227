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
    from versatile_diffusion.cli.io.console import note, show, show_json
    from versatile_diffusion.cli.io.files import check_folder
    from versatile_diffusion.recipes.emoji.data import build_emoji

    check_folder(out)
    manifest = build_emoji(out, size=size, workers=workers, edition=edition)
    if json:
        return show_json(
            {"folder": str(out), "counts": manifest.counts, "total": manifest.total, "left_out": manifest.left_out}
        )
    for split, row in manifest.counts.items():
        show(f"{split:13} {sum(row.values()):6}")
    show(f"{'all':13} {manifest.total:6}")
    for reason, count in manifest.left_out.items():
        note(f"{count} concepts skipped: {reason}")
    note(f"{out / 'manifest.json'} lists the licences; {out / 'contact_sheet.png'} shows the styles")
