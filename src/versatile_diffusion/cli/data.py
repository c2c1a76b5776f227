"""`versatile data`: build the sets that training reads, and encode them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from versatile_diffusion.cli.data_encode import encode

app = typer.Typer(help="Build data sets, and encode them for training.", no_args_is_help=True)
app.command()(encode)


@app.command()
def emoji(
    out: Annotated[Path, typer.Option(help="Folder to build in; an interrupted build there goes on.")],
    size: Annotated[int, typer.Option(help="Side of the pictures in pixels.")] = 64,
    workers: Annotated[int, typer.Option(help="Processes that render.")] = 2,
) -> None:
    """Build the emoji set: 14 drawing styles of 1,652 concepts with captions, from public npm packages."""
    from versatile_diffusion.cli.console import note, show
    from versatile_diffusion.data.emoji import build_emoji

    manifest = build_emoji(out, size=size, workers=workers)
    for split, row in manifest.counts.items():
        show(f"{split:13} {sum(row.values()):6}")
    show(f"{'all':13} {manifest.total:6}")
    note(f"{out / 'manifest.json'} lists the licences; {out / 'contact_sheet.png'} shows the styles")
