"""What the context tokens of a picture still tell at each level of disentanglement, before anything is made from them.

    python benchmarks/components.py --data data/emoji [--concepts 120] [--markdown PAGE]

Training pictures of concepts that are drawn in several styles. "Concept": how often the picture whose kept local tokens
are the nearest, among those of all other styles, shows the same concept. "Style": how often the nearest among those of
all other concepts is of the same style. If tokens hold what a level says, and variations from them do not, it is the
diffuser that does not follow. "Size" is that of the kept tokens beside all of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from jaxtyping import Bool, Float
from judging import write_table
from PIL import Image
from torch import Tensor
from torch.nn.functional import normalize

from versatile_diffusion import VersatileDiffusionPipeline
from versatile_diffusion.applications.disentangle import levels
from versatile_diffusion.recipes.emoji.data import EmojiSet
from versatile_diffusion.sampling.focus import CONVENTIONS, apply_focus

BATCH = 64
Same = Bool[Tensor, "n n"]


def drawn(emoji: EmojiSet, concepts: int, styles: int) -> list[int]:
    """Rows of so many concepts, each in so many styles."""
    rows: dict[int, dict[int, int]] = {}
    for row, (concept, style) in enumerate(zip(emoji.concepts.tolist(), emoji.styles.tolist(), strict=True)):
        rows.setdefault(concept, {}).setdefault(style, row)
    rich = [list(own.values()) for own in rows.values() if len(own) >= styles]
    random = np.random.default_rng(0)
    chosen = random.choice(len(rich), min(concepts, len(rich)), replace=False)
    return [int(row) for place in chosen for row in random.permutation(rich[place])[:styles]]


def nearest(tokens: Float[Tensor, "n l d"], same_concept: Same, same_style: Same) -> dict[str, float]:
    """Per cent of the pictures whose nearest one in another style, or of another concept, is of the same kind."""
    vectors = normalize(tokens.flatten(1).float(), dim=-1)
    likeness = vectors @ vectors.T
    rows = torch.arange(len(tokens))
    in_other_style = likeness.masked_fill(same_style, -torch.inf).argmax(1)
    of_other_concept = likeness.masked_fill(same_concept, -torch.inf).argmax(1)
    found = {"concept": same_concept[rows, in_other_style], "style": same_style[rows, of_other_concept]}
    return {name: round(100 * float(hits.float().mean()), 1) for name, hits in found.items()}


@torch.no_grad()
def main(
    data: Annotated[Path, typer.Option(help="The emoji set.")],
    model: Annotated[str, typer.Option(help="Name of a shipped model, or a folder.")] = "emoji",
    concepts: Annotated[int, typer.Option(min=2, help="Concepts to look at.")] = 120,
    styles: Annotated[int, typer.Option(min=2, help="Pictures of each, in different styles.")] = 6,
    markdown: Annotated[Path | None, typer.Option(help="Page with a place for the table.")] = None,
) -> None:
    """Measure what tokens tell by level."""
    encoder = VersatileDiffusionPipeline.from_pretrained(model).bank.encoders["image"]
    emoji = EmojiSet.load(data, "train")
    rows = drawn(emoji, concepts, styles)
    pictures = [Image.fromarray(emoji.pictures[row]) for row in rows]
    tokens = torch.cat([encoder.encode(pictures[k : k + BATCH]) for k in range(0, len(pictures), BATCH)])
    same = [torch.as_tensor(np.equal.outer(kind[rows], kind[rows])) for kind in (emoji.concepts, emoji.styles)]
    table = {"global token alone": {**nearest(tokens[:, :1], *same), "size": ""}}
    whole = tokens[:, 1:].norm(dim=(1, 2))
    for convention in CONVENTIONS:
        for focus in levels(convention):
            kept = apply_focus(tokens, focus)[:, 1:]
            size = round(float((kept.norm(dim=(1, 2)) / whole).mean()), 2)
            table[f"{convention} {focus.level:g}"] = {**nearest(kept, *same), "size": size}
    write_table("components", table, "kept", f"{len(rows)} training images; %", markdown)


if __name__ == "__main__":
    typer.run(main)
