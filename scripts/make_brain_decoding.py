"""Update the numbers and the figure of docs/guides/brain_decoding.md from a run of the example.

python scripts/make_brain_decoding.py --data data/emoji
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
import brain_decoding

DOCS = Path(__file__).parents[1] / "docs"
PAGE, PICTURE = Path("guides", "brain_decoding.md"), Path("images", "brain-decoding.jpg")
MEASURED = re.compile("(<!-- measured -->\n).*?(<!-- end -->)", re.DOTALL)
WIDTH = 1033  # of the picture, in pixels


def renew(run: Path, docs: Path) -> None:
    """Put the results of a run of the example into the page and its figure."""
    facts = json.loads((run / "measured.json").read_text(encoding="utf-8"))
    told = (
        f'Model "{facts["model"]}", fingerprint {facts["fingerprint"]}; {facts["made"]} images reconstructed in '
        f"{facts['seconds']} s of processor time."
    )
    block = f"```\n{brain_decoding.table(facts['measured'])}\n```\n\n{told}\n"
    page = docs / PAGE
    text, found = MEASURED.subn(lambda marks: marks[1] + block + marks[2], page.read_text(encoding="utf-8"))
    if found != 1:
        raise ValueError(f"{page} has {found} places for the results; there must be one")
    page.write_text(text, encoding="utf-8")
    sheet = Image.open(run / "sheet.png")
    smaller = sheet.resize((WIDTH, round(sheet.height * WIDTH / sheet.width)), Image.Resampling.LANCZOS)
    smaller.save(docs / PICTURE, quality=90)


def main(
    data: Annotated[Path, typer.Option(help="The emoji set: `versatile data emoji --out data/emoji` builds it.")],
    model: Annotated[str, typer.Option(help="Name of a shipped model, a folder, or a hub id.")] = "emoji",
) -> None:
    """Run the example, and put its numbers and its figure into the docs."""
    with tempfile.TemporaryDirectory() as folder:
        brain_decoding.main(data, Path(folder), model)
        renew(Path(folder), DOCS)


if __name__ == "__main__":
    typer.run(main)
