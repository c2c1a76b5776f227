"""What pictures show of held-out items, by a judge of its own and by the model's encoders; tables of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from versatile_diffusion import VersatileDiffusionPipeline
from versatile_diffusion.data.emoji import EmojiSet
from versatile_diffusion.evaluation.intervals import Measured, bootstrap
from versatile_diffusion.evaluation.networks import fitted, load_judge
from versatile_diffusion.evaluation.recognition import EncoderJudge, Hits, Items, judged
from versatile_diffusion.training.judge import PictureJudge
from versatile_diffusion.version import __version__

SIDE = 64
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
        return cls(own, EncoderJudge.of(dict(pipe.bank.encoders.items()), data))

    def hits(self, pictures: Sequence[Image.Image], items: Items) -> Hits:
        """What is recognised, picture by picture."""
        pictures = fitted(pictures, SIDE)
        mine = {} if self.own is None else judged(self.own, pictures, items)
        return mine | self.encoders.hits("image", pictures, items)


def reordered(items: Items, order: Sequence[int]) -> Items:
    """The items at these places."""
    place = torch.as_tensor(order)
    return replace(
        items,
        labels=[items.labels[k] for k in order],
        concepts=items.concepts[place],
        styles=items.styles[place],
        concept_keys=[items.concept_keys[k] for k in order],
        style_names=[items.style_names[k] for k in order],
        given={modality: [values[k] for k in order] for modality, values in items.given.items()},
        references=[items.references[k] for k in order],
        synonyms=[items.synonyms[k] for k in order],
        groups={name: rows[place] for name, rows in items.groups.items()},
    )


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


def _cell(value: Any) -> str:
    if isinstance(value, Measured):
        return f"{value.value:.1f} ({value.low:.0f} to {value.high:.0f})"
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
