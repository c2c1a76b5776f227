"""What pictures show of held-out items, by a judge of its own and by the model's encoders; tables of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from versatile_diffusion import VersatileDiffusionPipeline
from versatile_diffusion.evaluation.intervals import Measured, bootstrap
from versatile_diffusion.evaluation.items import Classes, Items
from versatile_diffusion.evaluation.judge_network import PictureJudge
from versatile_diffusion.evaluation.networks import fit_images, load_judge, pixels
from versatile_diffusion.evaluation.recognition import EncoderJudge, Hits, classify, vectors
from versatile_diffusion.recipes.emoji.data import EmojiSet
from versatile_diffusion.recipes.emoji.held_out import vocabulary_of
from versatile_diffusion.recipes.emoji.prompt_sheet import verdicts
from versatile_diffusion.recipes.emoji.prompts import FIXED_PROMPTS, FixedPrompt
from versatile_diffusion.version import __version__

SIDE = 64
BATCH = 16
Row = dict[str, Measured]


@dataclass(frozen=True)
class Judges:
    """Both judges of a model; `own` is None without a folder."""

    own: PictureJudge | None
    encoders: EncoderJudge

    @classmethod
    def of(cls, pipe: VersatileDiffusionPipeline, data: EmojiSet, folder: Path) -> Judges:
        """The judge in `folder`, if there is one, and the encoders of a model."""
        own = load_judge(str(folder), torch.device("cpu")) if (folder / "config.json").is_file() else None
        return cls(own, EncoderJudge.of(dict(pipe.bank.encoders.items()), vocabulary_of(data)))

    def standings(self, pictures: Sequence[Image.Image], classes: Classes) -> Hits:
        """Share of the other concepts that each judge finds less likely than the item's, picture by picture: a half by
        chance, 1 where the concept is found. It tells apart what top-5 does not."""
        encoders, place = self.encoders, {number: row for row, number in enumerate(self.encoders.known.tolist())}
        seen, _ = vectors(encoders.encoders["image"], pictures)
        rows = torch.tensor([place[number] for number in classes.concepts.tolist()])
        found = {"encoders/standing": _standing((seen @ encoders.concepts.T).cpu(), rows)}
        if self.own is None:
            return found
        with torch.no_grad():
            scores = self.own(pixels(fit_images(pictures, SIDE), self.own.device)).concept.cpu()
        known = {name: row for row, name in enumerate(self.own.config.concepts)}
        rows = torch.tensor([known.get(name, -1) for name in classes.concept_keys])
        return {"judge/standing": _standing(scores, rows)} | found

    def hits(self, pictures: Sequence[Image.Image], classes: Classes) -> Hits:
        """What is recognised, picture by picture."""
        pictures = fit_images(pictures, SIDE)
        mine = {} if self.own is None else classify(self.own, pictures, classes)
        return mine | self.encoders.hits("image", pictures, classes)


def _standing(scores: Float[Tensor, "n k"], rows: Int[Tensor, " n"]) -> Float[np.ndarray, " n"]:
    """Share of the scores that are below that of each row's own place; NaN where there is none (-1)."""
    below = (scores < scores.gather(1, rows.clamp(min=0)[:, None])).double().sum(1) / (scores.shape[1] - 1)
    return np.where(rows < 0, np.nan, below)


def judged_prompts(
    pipe: VersatileDiffusionPipeline,
    judge: PictureJudge,
    prompts: Sequence[FixedPrompt] = FIXED_PROMPTS,
    seed: int = 0,
    **options: Any,
) -> tuple[list[Image.Image], list[dict[str, Any]]]:
    """An image for each prompt, all with one seed, and what the judge says of each."""
    texts = [prompt.text for prompt in prompts]
    parts = [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]
    made = [image for part in parts for image in pipe.text_to_image(part, seed=[seed] * len(part), **options).images]
    images = fit_images(made, SIDE)
    return images, verdicts(judge, prompts, images)


def known_classes(items: Items) -> Classes:
    """What the items of the emoji set show."""
    assert items.classes is not None, "the emoji set names what its items show"
    return items.classes


def measured(hits: Hits) -> Row:
    """Per cent of the values that are recognised, with its limits; what could not be is left out."""
    rows = {name: 100 * found[~np.isnan(found)] for name, found in hits.items()}
    return {name: bootstrap(found) for name, found in rows.items() if len(found)}


def markdown(table: Mapping[str, Mapping[str, Any]], first: str) -> str:
    """A table with a line for each row; measured values with the limits of 95 of 100 cases."""
    columns = list(dict.fromkeys(name for row in table.values() for name in row))
    lines = [f"| {first} | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    for name, row in table.items():
        lines.append(f"| {name} | {' | '.join(_cell(row.get(column)) for column in columns)} |")
    return "\n".join(lines)


def write_table(name: str, table: Mapping[str, Mapping[str, Any]], first: str, caption: str, page: Path | None) -> None:
    """Prints a table with a line that says of what; with a page of Markdown, also puts it there between the marks
    `<!-- NAME -->` and `<!-- /NAME -->`, in place of what was between them.

    Raises:
        ValueError: the page has no such marks.
    """
    text = f"{caption}\n\n{markdown(table, first)}\n"
    print(text)
    if page is None:
        return
    before, begin, rest = page.read_text(encoding="utf-8").partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition(f"<!-- /{name} -->")
    if not begin or not end:
        raise ValueError(f"{page} has no place for the table: two lines <!-- {name} --> and <!-- /{name} -->")
    page.write_text(f"{before}{begin}{text}{end}{after}", encoding="utf-8")


def _cell(value: Any) -> str:
    if isinstance(value, Measured):
        return f"{value.value:.1f} ({value.low:.0f} to {value.high:.0f})" if value.low is not None else value.brief
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def write_json(file: Path, settings: Mapping[str, Any], table: Mapping[str, Mapping[str, Any]]) -> None:
    """The settings of a run and its table."""
    rows = {
        name: {key: asdict(value) if isinstance(value, Measured) else value for key, value in row.items()}
        for name, row in table.items()
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    record = {"library": f"versatile-diffusion {__version__}", "settings": settings, "table": rows}
    file.write_text(json.dumps(record, indent=1, default=str) + "\n", encoding="utf-8")
