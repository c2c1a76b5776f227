"""`versatile data speech`: the words of the emoji set, spoken."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from versatile_diffusion.cli.options import Json


def speech(
    out: Annotated[Path, typer.Option(help="Folder to build in; a finished set there is kept.")],
    emoji: Annotated[Path, typer.Option(help="Emoji set whose words are spoken.")] = Path("data/emoji"),
    workers: Annotated[int, typer.Option(min=1, help="Processes that speak.")] = 2,
    json: Json = False,
) -> None:
    """Build the speech set: the words of the emoji set in 14 voices of English, spoken by espeak-ng."""
    from versatile_diffusion.cli.io.console import note, show, show_json
    from versatile_diffusion.cli.io.files import check_folder
    from versatile_diffusion.recipes.speech.data import build_speech

    check_folder(out)
    manifest = build_speech(out, emoji, workers=workers)
    if json:
        told = {"folder": str(out), "counts": manifest.counts, "total": manifest.total, "left_out": manifest.left_out}
        return show_json(told)
    for split, row in manifest.counts.items():
        show(f"{split:13} {sum(row.values()):6}")
    show(f"{'all':13} {manifest.total:6}")
    for reason, words in manifest.left_out.items():
        note(f"{len(words)} words skipped: {reason}")
    note(f"{out / 'speech.json'} lists words and voices; {out / 'NOTICE'} has the sources")
