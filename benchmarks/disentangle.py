"""What variations keep of an image, by disentanglement level (the paper's figure 9): concept and style.

    python benchmarks/disentangle.py --data data/emoji [--count 64] [--convention paper] [--plot FILE.svg]
        [--json FILE] [--markdown PAGE]

Each held-out picture is varied at every level with the same noise. If the claim holds, the concept is recognised best
at low levels and the style at high ones; "standing" is the share of other concepts that are found less likely (50 by
chance). The judge is independent of the model, the encoders are those that guide it.
The last line has the real pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from judging import Judges, Row, known_classes, measured, write_json, write_table
from PIL import Image

from versatile_diffusion import Condition, VersatileDiffusionPipeline
from versatile_diffusion.applications.disentangle import LEVELS, levels
from versatile_diffusion.evaluation.items import Items
from versatile_diffusion.evaluation.plots import line_plot
from versatile_diffusion.recipes.emoji.data import EmojiSet
from versatile_diffusion.recipes.emoji.held_out import items_of
from versatile_diffusion.sampling.focus import CONVENTIONS, Focus


def vary(pipe: VersatileDiffusionPipeline, items: Items, focus: Focus, batch: int, **options: Any) -> list[Image.Image]:
    """A variation of each picture, item k with seed k."""
    made: list[Image.Image] = []
    for start in range(0, len(items), batch):
        condition = Condition("image", items.given["image"][start : start + batch], focus=focus)
        made += pipe.generate("image", [condition], seed=start, **options).images
    return made


def plot(rows: Mapping[float, Row], convention: str) -> str:
    """An SVG with a line for each rate."""
    names = dict.fromkeys(name for row in rows.values() for name in row)
    curves = {name: [(level, row[name]) for level, row in rows.items() if name in row] for name in names}
    return line_plot(curves, f"recognised in variations, % ({convention})", "level")


def main(
    data: Annotated[Path, typer.Option(help="The emoji set.")],
    model: Annotated[str, typer.Option(help="Name of a shipped model, or a folder.")] = "emoji",
    judge: Annotated[Path, typer.Option(help="Folder of the judge.")] = Path("runs/emoji/judge/export"),
    split: Annotated[str, typer.Option(help="Part of the set.")] = "pair-test",
    convention: Annotated[str, typer.Option(help=f"One of {', '.join(CONVENTIONS)}.")] = "paper",
    count: Annotated[int, typer.Option(min=1, help="Pictures.")] = 64,
    steps: Annotated[int, typer.Option(min=1, help="Of sampling.")] = 25,
    scale: Annotated[float | None, typer.Option(help="Guidance scale; the model's own.")] = None,
    places: Annotated[int, typer.Option(min=2, help="Levels.")] = LEVELS,
    drop_global: Annotated[bool, typer.Option("--drop-global", help="Without the global token.")] = False,
    batch: Annotated[int, typer.Option(min=1, help="Pictures at a time.")] = 16,
    json: Annotated[Path | None, typer.Option(help="File for all numbers.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Page with a place for the table.")] = None,
    svg: Annotated[Path | None, typer.Option("--plot", help="File for the plot.")] = None,
) -> None:
    """Measure style and concept by level."""
    pipe, emoji = VersatileDiffusionPipeline.from_pretrained(model), EmojiSet.load(data, split)
    pipe.set_progress_bar_config(disable=True)
    judges, items = Judges.of(pipe, emoji, judge), items_of(emoji, count)
    classes = known_classes(items)
    options: dict[str, Any] = {"num_inference_steps": steps, "guidance_scale": scale}
    focuses = levels(convention, places, drop_global=drop_global)
    rows = {}
    for focus in focuses:
        made = vary(pipe, items, focus, batch, **options)
        rows[focus.level] = measured(judges.hits(made, classes) | judges.standings(made, classes))
    table = {f"{level:g}": row for level, row in rows.items()}
    real = items.given["image"]
    table["real"] = measured(judges.hits(real, classes) | judges.standings(real, classes))
    own = ", without the global token" if drop_global else ""
    told = f"{len(items)} images of {split}, convention {convention}{own}, {steps} steps; %"
    write_table(f"disentangle {convention}", table, "level", told, markdown)
    if json is not None:
        settings = {"model": model, "split": split, "convention": convention, "drop_global": drop_global}
        write_json(json, settings | {"count": len(items), "steps": steps, "scale": scale}, table)
    if svg is not None:
        svg.parent.mkdir(parents=True, exist_ok=True)
        svg.write_text(plot(rows, convention), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
