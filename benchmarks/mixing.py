"""Attention-, layer- and model-level mixing (the paper's section 3.3): what is recognised of both contexts, and cost.

    python benchmarks/mixing.py --data data/emoji [--count 64] [--steps 25] [--json FILE] [--markdown PAGE]
        [--ensemble FOLDER --ensemble FOLDER]

Each image is conditioned on the text of one held-out item and the image of another, of a different concept. "Text's
concept" and "image's concept" are the share of all other concepts that a judge ranks lower (chance: 50), followed by
the lower of the two per image. The style that the text names and the concept of the image can hold at the same time:
the table has how often each is recognised (the concept in the top 5), and how often both are. The judge is independent
of the model; the JSON also has the results of the model's own encoders. Other rows: each context alone, and the real
images as the ceiling. Costs are per image.

"In turn" is model-level mixing as the paper ran it (its figure 7): two whole models, one conditioned on the text and
one on the image, alternate over the steps of one run. --ensemble names them: folders of ours or of diffusers (Stable
Diffusion v1.4 and its image variations); the default is two flows of the model itself, each as a model of its own. Such
a pair agrees better than two that were trained independently.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from judging import Judges, Row, known_classes, measured, write_json, write_table
from PIL import Image

from versatile_diffusion import Condition, VersatileDiffusionPipeline
from versatile_diffusion.evaluation.ensemble import Ensemble, EnsembleSampling, OwnMember, find_members, single_flow
from versatile_diffusion.evaluation.items import Items
from versatile_diffusion.recipes.emoji.data import EmojiSet
from versatile_diffusion.recipes.emoji.held_out import items_of
from versatile_diffusion.sampling.rules import Cost

WAYS = {
    "text alone": ("attention", 1.0),
    "image alone": ("attention", 0.0),
    "attention": ("attention", 0.5),
    "layer": ("layer", 0.5),
    "model": ("model", 0.5),
}
"""Name to the mixing and the weight of the text."""
WHOSE = ("text's", "image's")


def partners(items: Items) -> list[int]:
    """For each item another one of a different concept, half the set away or the next after it."""
    concepts, count = known_classes(items).concepts.tolist(), len(items)
    others = [[(k + count // 2 + step) % count for step in range(count)] for k in range(count)]
    return [next(j for j in row if concepts[j] != concepts[k]) for k, row in enumerate(others)]


def make(
    pipe: VersatileDiffusionPipeline, way: str, texts: Items, pictures: Items, batch: int, **options: Any
) -> tuple[list[Image.Image], Cost]:
    """An image per pair, and the cost of one; each batch has its own layer plan."""
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


def in_turn(
    ensemble: Ensemble, texts: Items, pictures: Items, batch: int, steps: int, scale: float
) -> tuple[list[Image.Image], Cost]:
    """The same from two whole models, and the cost of one, as far as it is known."""
    made: list[Image.Image] = []
    for start in range(0, len(texts), batch):
        part = slice(start, start + batch)
        given = {"text": texts.given["text"][part], "image": pictures.given["image"][part]}
        seeds = range(start, start + len(given["text"]))
        images, cost = ensemble.make(given, EnsembleSampling(seeds, steps, scale))
        made += images
    return made, cost


def whole_models(pipe: VersatileDiffusionPipeline, folders: Sequence[str]) -> Ensemble:
    """Those of the folders; without any, two flows of the model."""
    if folders:
        return Ensemble(find_members(folders))
    flows = {"text": "text-to-image", "image": "image-variation"}
    return Ensemble([OwnMember(single_flow(pipe, task), modality) for modality, task in flows.items()])


def recognised(judges: Judges, made: list[Image.Image], texts: Items, pictures: Items) -> Row:
    """What each judge recognises of the text and of the image."""
    of_text, of_picture = (
        judges.standings(made, seen) | judges.hits(made, seen) for seen in map(known_classes, (texts, pictures))
    )
    row: dict[str, np.ndarray] = {}
    for judge in dict.fromkeys(name.split("/")[0] for name in of_text):
        concepts = of_text[f"{judge}/standing"], of_picture[f"{judge}/standing"]
        crossed = of_text[f"{judge}/style"], of_picture[f"{judge}/concept top-5"]
        row |= {f"{judge}: {whose} concept": found for whose, found in zip(WHOSE, concepts, strict=True)}
        row[f"{judge}: lower of the two"] = np.minimum(*concepts)
        row |= {f"{judge}: text's style": crossed[0], f"{judge}: image's concept found": crossed[1]}
        row[f"{judge}: both found"] = np.minimum(*crossed)
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
    ensemble: Annotated[list[str] | None, typer.Option(help="Two models of one flow each: folders or names.")] = None,
    json: Annotated[Path | None, typer.Option(help="File for all numbers.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Page with a place for the table.")] = None,
) -> None:
    """Compare the three levels of mixing, and two whole models in turn."""
    pipe, emoji = VersatileDiffusionPipeline.from_pretrained(model), EmojiSet.load(data, split)
    pipe.set_progress_bar_config(disable=True)
    judges, texts = Judges.of(pipe, emoji, judge), items_of(emoji, count)
    pictures = texts.at(partners(texts))
    scale = pipe.config.defaults.get("dual-guided", {}).get("guidance_scale", 7.5) if scale is None else scale
    table: dict[str, dict[str, Any]] = {}
    pair = whole_models(pipe, ensemble or [])
    ways = {way: partial(make, pipe, way, num_inference_steps=steps, guidance_scale=scale) for way in WAYS}
    ways["in turn"] = partial(in_turn, pair, steps=steps, scale=scale)
    for way, run in ways.items():
        started = time.perf_counter()
        made, cost = run(texts, pictures, batch)
        seconds = (time.perf_counter() - started) / len(texts)
        known = {"passes": cost.passes, "context blocks": cost.context_blocks} if cost.passes else {}
        costs = {**known, "seconds": round(seconds, 2)}
        table[way] = {**recognised(judges, made, texts, pictures), **costs}
    table["real, of the text"] = dict(recognised(judges, texts.given["image"], texts, pictures))
    table["real, of the image"] = dict(recognised(judges, pictures.given["image"], texts, pictures))
    judging = "encoders: " if judges.own is None else "judge: "
    brief = {
        way: {name.removeprefix(judging): row[name] for name in row if ": " not in name or name.startswith(judging)}
        for way, row in table.items()
    }
    told = f"{len(texts)} pairs of {split}, {steps} steps, guidance scale {scale:g}, by the {judging[:-2]}; %"
    write_table("mixing", brief, "mixing", told, markdown)
    if json is not None:
        settings = {"model": model, "split": split, "count": len(texts), "steps": steps, "scale": scale}
        write_json(json, settings | {"ensemble": ensemble or "two flows of the model"}, table)


if __name__ == "__main__":
    typer.run(main)
