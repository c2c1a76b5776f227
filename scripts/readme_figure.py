"""Write the README's figure, docs/images/text-to-image.webp, from the images of `versatile demo`.

versatile demo --out out/demo && python scripts/readme_figure.py out/demo
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from PIL import Image, ImageDraw, ImageFont

from versatile_diffusion.cli.verbs.demo import PROMPTS, STYLES

FIGURE = Path(__file__).parents[1] / "docs" / "images" / "text-to-image.webp"
TILE, GAP, LEFT, TOP = 128, 4, 108, 24
FONT = ImageFont.load_default(13)


def main(demo: Annotated[Path, typer.Argument(help="Folder written by `versatile demo`.")] = Path("out/demo")) -> None:
    """Draw prompts in columns and styles in rows."""
    size = LEFT + len(PROMPTS) * (TILE + GAP), TOP + len(STYLES) * (TILE + GAP)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    for column, prompt in enumerate(PROMPTS):
        x = LEFT + column * (TILE + GAP)
        draw.text((x + TILE / 2, TOP / 2), prompt, "black", FONT, anchor="mm")
        for row, style in enumerate(STYLES):
            y = TOP + row * (TILE + GAP)
            draw.text((4, y + TILE / 2), style, "black", FONT, anchor="lm")
            image = Image.open(demo / f"{prompt.replace(' ', '-')}-{style}.png").convert("RGB")
            sheet.paste(image.resize((TILE, TILE), Image.Resampling.BICUBIC), (x, y))
    sheet.save(FIGURE, quality=85)


if __name__ == "__main__":
    typer.run(main)
