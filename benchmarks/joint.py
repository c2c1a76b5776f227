"""An image and its caption generated jointly, sequentially and independently: how well the two agree.

    python benchmarks/joint.py --data data/emoji [--count 24] [--steps 25] [--json FILE] [--markdown PAGE]

Both start from noise alone, from the text of a held-out item, or from its image. "Caption fits image" is the cosine
similarity of the two in the space of the model's encoders (times 100), "fits input" that of each to the input. "Named"
is how often the caption names one of the top-5 concepts of an independent judge in the image. Captions are greedy;
costs are per pair.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from judging import SIDE, Row, measured, write_json, write_table
from PIL import Image

from versatile_diffusion import Condition, VersatileDiffusionPipeline
from versatile_diffusion.applications.joint import Exchange, joint
from versatile_diffusion.evaluation.captions import names
from versatile_diffusion.evaluation.networks import fit_images, load_judge, pixels
from versatile_diffusion.recipes.emoji.data import EmojiSet
from versatile_diffusion.recipes.emoji.held_out import items_of
from versatile_diffusion.recipes.emoji.judge import PictureJudge
from versatile_diffusion.sampling.rules import Cost

Given = list[Condition]
Pairs = tuple[list[Image.Image], list[str], Cost]
GREEDY = {"temperature": 0.0}


def jointly(pipe: VersatileDiffusionPipeline, given: Given, exchange: Exchange, **options: Any) -> Pairs:
    """Each guides the other."""
    made = joint(pipe, given, exchange=exchange, captioning=GREEDY, **options)
    return made.picture.images, made.caption.texts, made.picture.cost + made.caption.cost


def sequentially(pipe: VersatileDiffusionPipeline, given: Given, exchange: Exchange, **options: Any) -> Pairs:
    """Caption the finished image."""
    picture = pipe.generate("image", given or [Condition("text", "")], **options)
    shown = Condition("image", picture.images)
    caption = pipe.generate("text", [shown], **options | GREEDY | {"num_outputs": 1})
    return picture.images, caption.texts, picture.cost + caption.cost


def independently(pipe: VersatileDiffusionPipeline, given: Given, exchange: Exchange, **options: Any) -> Pairs:
    """Both from the same, knowing nothing of each other."""
    picture, caption = (
        pipe.generate(data, given or [Condition("text", "")], **options | more)
        for data, more in (("image", {}), ("text", GREEDY))
    )
    return picture.images, caption.texts, picture.cost + caption.cost


WAYS: dict[str, Callable[..., Pairs]] = {
    "jointly": jointly,
    "sequentially": sequentially,
    "independently": independently,
}


def agreements(pipe: VersatileDiffusionPipeline, pairs: Pairs, given: Sequence[Any], modality: str | None) -> Row:
    """Cosine similarities between image, caption and their input."""
    pictures, captions, _ = pairs
    image, text = (pipe.bank.encoders[name].compare(v) for name, v in (("image", pictures), ("text", captions)))
    row = {"caption fits image": (image * text).sum(-1)}
    if modality is not None:
        wanted = pipe.bank.encoders[modality].compare(given)
        row |= {"image fits input": (image * wanted).sum(-1), "caption fits input": (text * wanted).sum(-1)}
    return measured({name: value.double().numpy() for name, value in row.items()})


def named(judge: PictureJudge, pairs: Pairs, labels: Mapping[str, str]) -> np.ndarray:
    """Whether each caption names one of the judge's top-5 concepts."""
    pictures, captions, _ = pairs
    with torch.no_grad():
        found = judge(pixels(fit_images(pictures, SIDE), judge.device)).concept.topk(5).indices.tolist()
    likely = [[labels.get(judge.config.concepts[place], "") for place in row] for row in found]
    return np.array(
        [any(names(text, label) for label in row) for text, row in zip(captions, likely, strict=True)], float
    )


def main(
    data: Annotated[Path, typer.Option(help="The emoji set.")],
    model: Annotated[str, typer.Option(help="Name of a shipped model, or a folder.")] = "emoji",
    judge: Annotated[Path, typer.Option(help="Folder of the judge.")] = Path("runs/emoji/judge/export"),
    split: Annotated[str, typer.Option(help="Part of the set.")] = "pair-test",
    count: Annotated[int, typer.Option(min=1, help="Pairs of each kind.")] = 24,
    steps: Annotated[int, typer.Option(min=1, help="Of sampling.")] = 25,
    every: Annotated[int, typer.Option(min=1, help="Steps between exchanges.")] = Exchange().every,
    after: Annotated[float, typer.Option(help="Share of the trajectory without exchange.")] = Exchange().after,
    weight: Annotated[float, typer.Option(help="Of each for the other.")] = Exchange().caption_weight,
    json: Annotated[Path | None, typer.Option(help="File for all numbers.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Page with a place for the table.")] = None,
) -> None:
    """Compare three ways to generate an image with a caption."""
    pipe, emoji = VersatileDiffusionPipeline.from_pretrained(model), EmojiSet.load(data, split)
    pipe.set_progress_bar_config(disable=True)
    items, exchange = items_of(emoji, count), Exchange(weight, weight, every, after)
    own = load_judge(str(judge), torch.device("cpu"))
    labels = dict(zip(emoji.concept_keys, emoji.concept_names, strict=True))
    table: dict[str, dict[str, Any]] = {}
    for kind, modality in (("noise", None), ("a text", "text"), ("an image", "image")):
        values = [] if modality is None else items.given[modality]
        given = [] if modality is None else [Condition(modality, values)]
        options = {"num_inference_steps": steps, "seed": list(range(count))} | ({} if given else {"num_outputs": count})
        for name, way in WAYS.items():
            pairs = way(pipe, given, exchange, **options)
            row = agreements(pipe, pairs, values, modality)
            row |= measured({"named, %": named(own, pairs, labels)})
            cost = pairs[2]
            table[f"from {kind}, {name}"] = {**row, "passes": cost.passes, "context blocks": cost.context_blocks}
    settings = {"model": model, "split": split, "count": count, "steps": steps, "every": every, "after": after}
    told = f"{count} pairs of each kind, {split}, {steps} steps, exchange every {every} from {after:g} on"
    write_table("joint", table, "generated", told, markdown)
    if json is not None:
        write_json(json, settings | {"weight": weight}, table)


if __name__ == "__main__":
    typer.run(main)
