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
    "a dog face": 6,
    "a light bulb": 5,
    "a red apple": 7,
    "a penguin": 2,
    "a birthday cake": 2,
    "a fox": 2,
    "a smiling face with sunglasses": 7,
    "a bus": 7,
    "a cactus": 0,
    "a doughnut": 2,
    "a red heart": 5,
    "a wine glass": 2,
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
