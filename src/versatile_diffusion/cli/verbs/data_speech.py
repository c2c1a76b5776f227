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
    from versatile_diffusion.cli.io.console import note, show_json
    from versatile_diffusion.cli.io.files import check_folder
    from versatile_diffusion.cli.io.sets import show_counts, summary_of
    from versatile_diffusion.recipes.speech.data import build_speech

    check_folder(out)
    manifest = build_speech(out, emoji, workers=workers)
    if json:
        return show_json(summary_of(out, manifest))
    show_counts(manifest)
    for reason, words in manifest.left_out.items():
        note(f"{len(words)} words skipped: {reason}")
    note(f"{out / 'speech.json'} lists words and voices; {out / 'NOTICE'} has the sources")
