"""Attention-, layer- and model-level mixing (the paper's section 3.3): what is recognised of both contexts, and cost.

    python benchmarks/mixing.py --data data/emoji [--count 64] [--steps 25] [--json FILE] [--markdown PAGE]

Each picture is guided by the text of one held-out item and by the picture of another of a different concept. "Text's
concept" and "picture's concept" say how large a share of all other concepts a judge finds less likely in it (50 by
chance), picture by picture, and beside them stands the lesser of both. What can be had of both at once is the style
that the text names and the concept of the picture: how often each is found (the concept among the five likeliest), and
how often both are. The judge is independent of the model; the JSON has what the model's own encoders find, too. Beside
the mixings stand each context alone and, as what could be reached, the real pictures. The cost is that of one picture.
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
WHOSE = ("text's", "picture's")


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
    """What each judge finds of the text and of the picture."""
    of_text, of_picture = (judges.standings(made, items) | judges.hits(made, items) for items in (texts, pictures))
    row: dict[str, np.ndarray] = {}
    for judge in dict.fromkeys(name.split("/")[0] for name in of_text):
        concepts = of_text[f"{judge}/standing"], of_picture[f"{judge}/standing"]
        crossed = of_text[f"{judge}/style"], of_picture[f"{judge}/concept top-5"]
        row |= {f"{judge}: {whose} concept": found for whose, found in zip(WHOSE, concepts, strict=True)}
        row[f"{judge}: the lesser of both"] = np.minimum(*concepts)
        row |= {f"{judge}: text's style": crossed[0], f"{judge}: picture's concept found": crossed[1]}
        row[f"{judge}: both of these"] = np.minimum(*crossed)
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
    judging = "encoders: " if judges.own is None else "judge: "
    brief = {
        way: {name.removeprefix(judging): row[name] for name in row if ": " not in name or name.startswith(judging)}
        for way, row in table.items()
    }
    told = f"{len(texts)} pairs of {split}, {steps} steps, guidance scale {scale:g}, by the {judging[:-2]}; per cent"
    write_table("mixing", brief, "mixing", told, markdown)
    if json is not None:
        write_json(json, {"model": model, "split": split, "count": len(texts), "steps": steps, "scale": scale}, table)


if __name__ == "__main__":
    typer.run(main)
