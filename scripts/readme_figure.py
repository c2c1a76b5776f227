"""Write the README's figure, docs/images/text-to-image.webp, from the images of `versatile demo`.

versatile demo --out out/demo && python scripts/readme_figure.py out/demo
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from PIL import Image, ImageDraw, ImageFont

from versatile_diffusion.cli.verbs.demo import PROMPTS, STYLES
from versatile_diffusion.sheets import GAP, Layout, tile_images

FIGURE = Path(__file__).parents[1] / "docs" / "images" / "text-to-image.webp"
TILE, LEFT, TOP = 128, 108, 24
FONT = ImageFont.load_default(13)


def main(demo: Annotated[Path, typer.Argument(help="Folder written by `versatile demo`.")] = Path("out/demo")) -> None:
    """Draw prompts in columns and styles in rows."""
    files = [demo / f"{prompt.replace(' ', '-')}-{style}.png" for style in STYLES for prompt in PROMPTS]
    layout = Layout(len(PROMPTS), (TILE, TILE), GAP, LEFT, TOP)
    sheet = tile_images([Image.open(file) for file in files], layout, resample=Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(sheet)
    for column, prompt in enumerate(PROMPTS):
        draw.text((layout.place(column)[0] + TILE / 2, TOP / 2), prompt, "black", FONT, anchor="mm")
    for row, style in enumerate(STYLES):
        draw.text((4, layout.place(row * len(PROMPTS))[1] + TILE / 2), style, "black", FONT, anchor="lm")
    sheet.save(FIGURE, quality=85)


if __name__ == "__main__":
    typer.run(main)
