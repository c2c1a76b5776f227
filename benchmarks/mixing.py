"""Attention-, layer- and model-level mixing (the paper's section 3.3): what is recognised of both contexts, and cost.

    python benchmarks/mixing.py --data data/emoji [--count 64] [--steps 25] [--json FILE] [--markdown PAGE]

Each picture is guided by the text of one held-out item and by the picture of another of a different concept. "Text's"
and "picture's" say how large a share of all other concepts a judge finds less likely in it than the concept of the one
or the other (50 by chance), "both" the lesser of the two, picture by picture. The judge is independent of the model,
the encoders are those that guide it. Beside the mixings stand each context alone and, as what could be reached, the
real pictures. The cost is counted for one picture. The JSON has rates of recognition and the styles, too.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from judging import Judges, Row, measured, reordered, write_json, write_table
from PIL import Image

from versatile_diffusion import Condition, VersatileDiffusionPipeline
from versatile_diffusion.data.emoji import EmojiSet
from versatile_diffusion.evaluation.recognition import Items
from versatile_diffusion.sampling.guidance import Cost

WAYS = {
    "text alone": ("attention", 1.0),
    "picture alone": ("attention", 0.0),
    "attention": ("attention", 0.5),
    "layer": ("layer", 0.5),
    "model": ("model", 0.5),
}
"""Name to the mixing and the weight of the text."""
JOINT = ("standing", "concept top-5")
"""What of both concepts can be told of one picture."""


def partners(items: Items) -> list[int]:
    """For each item another one of a different concept, half the set away or the next after it."""
    concepts, count = items.concepts.tolist(), len(items)
    others = [[(k + count // 2 + step) % count for step in range(count)] for k in range(count)]
    return [next(j for j in row if concepts[j] != concepts[k]) for k, row in enumerate(others)]


def make(
    pipe: VersatileDiffusionPipeline, way: str, texts: Items, pictures: Items, batch: int, **options: Any
) -> tuple[list[Image.Image], Cost]:
    """A picture from each pair, and the cost of one; each batch has a layer plan of its own."""
    mixing, weight = WAYS[way]
    made: list[Image.Image] = []
    for start in range(0, len(texts), batch):
        part = slice(start, start + batch)
        text = Condition("text", texts.given["text"][part], weight=weight)
        picture = Condition("image", pictures.given["image"][part], weight=1 - weight)
        output = pipe.generate(
            "image", [text, picture], mixing=mixing, seed=start, layer_seed=start // batch, **options
        )
        made += output.images
    return made, output.cost


def recognised(judges: Judges, made: list[Image.Image], texts: Items, pictures: Items) -> Row:
    """How much of each concept is found, and of both, by each judge."""
    whose = {"text's": texts, "picture's": pictures}
    found = {name: judges.standings(made, items) | judges.hits(made, items) for name, items in whose.items()}
    row = {}
    for what in found["text's"]:
        judge, kind = what.split("/")
        told = f"{judge}:" if kind == "standing" else f"{judge} {kind}:"
        row |= {f"{told} {name}": hits[what] for name, hits in found.items()}
        if kind in JOINT:
            row[f"{told} both"] = np.minimum(*(hits[what] for hits in found.values()))
    return measured(row)


def main(
    data: Annotated[Path, typer.Option(help="The emoji set.")],
    model: Annotated[str, typer.Option(help="Name of a shipped model, or a folder.")] = "emoji",
    judge: Annotated[Path, typer.Option(help="Folder of the judge.")] = Path("runs/emoji/judge/export"),
    split: Annotated[str, typer.Option(help="Part of the set.")] = "pair-test",
    count: Annotated[int, typer.Option(min=2, help="Pairs.")] = 64,
    steps: Annotated[int, typer.Option(min=1, help="Of sampling.")] = 25,
    scale: Annotated[float | None, typer.Option(help="Guidance scale; the model's own.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Pairs at a time.")] = 16,
    json: Annotated[Path | None, typer.Option(help="File for all numbers.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Page with a place for the table.")] = None,
) -> None:
    """Compare the three levels of mixing."""
    pipe, emoji = VersatileDiffusionPipeline.from_pretrained(model), EmojiSet.load(data, split)
    pipe.set_progress_bar_config(disable=True)
    judges, texts = Judges.of(pipe, emoji, judge), Items.of(emoji, count)
    pictures = reordered(texts, partners(texts))
    scale = pipe.config.defaults.get("dual-guided", {}).get("guidance_scale", 7.5) if scale is None else scale
    table: dict[str, dict[str, Any]] = {}
    for way in WAYS:
        started = time.perf_counter()
        made, cost = make(pipe, way, texts, pictures, batch, num_inference_steps=steps, guidance_scale=scale)
        seconds = (time.perf_counter() - started) / len(texts)
        costs = {"passes": cost.passes, "context blocks": cost.context_blocks, "seconds": round(seconds, 2)}
        table[way] = {**recognised(judges, made, texts, pictures), **costs}
    table["real, of the text"] = dict(recognised(judges, texts.given["image"], texts, pictures))
    table["real, given"] = dict(recognised(judges, pictures.given["image"], texts, pictures))
    shown = ("judge:", "encoders:", "passes", "context blocks", "seconds")
    brief = {way: {name: row[name] for name in row if name.startswith(shown)} for way, row in table.items()}
    write_table(
        "mixing", brief, "mixing", f"{len(texts)} pairs of {split}, {steps} steps, guidance scale {scale:g}", markdown
    )
    if json is not None:
        write_json(json, {"model": model, "split": split, "count": len(texts), "steps": steps, "scale": scale}, table)


if __name__ == "__main__":
    typer.run(main)
