"""Generates the results with which the studio opens: `showcase/` in the package of the emoji model.

    python scripts/make_showcase.py

Prompts and seeds were chosen by looking and by the judge of `tests/data/judge`; `tests/ui/forms/test_examples.py` asks
it again.
"""

from __future__ import annotations

import json
from pathlib import Path

from versatile_diffusion import VersatileDiffusionPipeline
from versatile_diffusion.cli.io.results import record
from versatile_diffusion.records.png import save_png
from versatile_diffusion.ui.forms.showcase import FOLDER, INDEX

OUT = Path(__file__).parents[1] / "models" / "emoji" / "src" / "versatile_diffusion_emoji" / FOLDER
CHOSEN = {
    "a red heart": 2,
    "a light bulb": 0,
    "a penguin": 2,
    "a red apple": 7,
    "a panda": 0,
    "a wine glass": 2,
    "a yellow heart": 3,
    "a cactus": 5,
    "a smiling face with sunglasses": 3,
    "a strawberry": 7,
    "a blue heart": 5,
    "a hamburger": 5,
}
"""Seed of each prompt."""


def main() -> None:
    pipe = VersatileDiffusionPipeline.from_pretrained("emoji")
    OUT.mkdir(exist_ok=True)
    rows = []
    for prompt, seed in CHOSEN.items():
        (item,) = pipe.text_to_image(prompt, seed=seed)
        file = OUT / f"{prompt.partition(' ')[2].replace(' ', '-')}.png"
        save_png(item.images[0], file, record(item, "emoji"))
        rows.append({"file": file.name, "prompt": prompt, "seed": seed})
    (OUT / INDEX).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
