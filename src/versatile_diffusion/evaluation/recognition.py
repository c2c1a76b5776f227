"""How often what a model generates is recognised: which concept, and which drawing style.

The judge is the model's own pair of context encoders, so these rates say whether a flow does what its guidance asks,
not how good a picture looks; beside them stands what the judge says of the real pictures, its ceiling.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from versatile_diffusion.data.emoji.reader import EmojiSet
from versatile_diffusion.modalities import MODALITIES
from versatile_diffusion.modalities.bank import ModalityBank
from versatile_diffusion.sampling.pipeline import VersatileDiffusionPipeline
from versatile_diffusion.tasks import Task

BATCH = 64
Rates = dict[str, float]


@dataclass(frozen=True)
class Items:
    """Held-out items to generate from: what they show, what each modality is given, and groups to report apart."""

    labels: list[str]
    concepts: Tensor
    styles: Tensor
    given: Mapping[str, list[Any]]
    groups: Mapping[str, Tensor]

    @classmethod
    def of(cls, data: EmojiSet, count: int) -> Items:
        """`count` items, spread evenly over the split; texts are "label, style phrase"."""
        rows = [round(i * len(data) / count) for i in range(count)] if count < len(data) else range(len(data))
        groups = {"all": torch.ones(len(rows), dtype=torch.bool)}
        if (alone := torch.as_tensor(data.no_sibling[list(rows)])).any():
            groups["no sibling"] = alone
        return cls(
            [data.labels[row] for row in rows],
            torch.as_tensor(data.concepts[list(rows)]),
            torch.as_tensor(data.styles[list(rows)]),
            {
                "image": [MODALITIES["image"].check(data.pictures[row]) for row in rows],
                "text": [f"{data.labels[row]}, {data.style_phrases[data.styles[row]][0]}" for row in rows],
            },
            groups,
        )


@dataclass(frozen=True)
class Judge:
    """Names concepts and styles of values of any modality, in the space that the encoders share.

    Args:
        bank: holds the encoders.
        known: numbers of the concepts to choose among.
        concepts, styles: their vectors, from the labels and from the phrases of each style.
    """

    bank: ModalityBank
    known: Tensor
    concepts: Tensor
    styles: Tensor

    @classmethod
    def of(cls, bank: ModalityBank, data: EmojiSet) -> Judge:
        """A judge among the training concepts and those of `data`."""
        mine = set(data.concepts.tolist())
        known = [i for i, part in enumerate(data.concept_parts) if part == "train" or i in mine]
        encoder = bank.encoders["text"]
        styles = torch.stack([encoder.embed(list(phrases)).style.mean(0) for phrases in data.style_phrases])
        concepts, _ = _embed(encoder, [data.concept_names[i] for i in known])
        return cls(bank, torch.tensor(known), concepts, F.normalize(styles, dim=-1))

    def rates(self, modality: str, values: Sequence[Any], items: Items) -> dict[str, Rates]:
        """Per group, shares of the values whose concept is the nearest, among the five nearest, whose style is the
        nearest; of texts also of those that hold the label word for word."""
        encoder = self.bank.encoders[modality]
        concepts, styles = _embed(encoder, [_readable(encoder, value) for value in values])
        order = self.known[(concepts @ self.concepts.T).argsort(dim=1, descending=True).cpu()]
        hit = order == items.concepts[:, None]
        found = {
            "concept R@1": hit[:, 0],
            "concept R@5": hit[:, :5].any(1),
            "style": (styles @ self.styles.T).argmax(1).cpu() == items.styles,
        }
        if isinstance(values[0], str):
            found["label named"] = torch.tensor(
                [label.lower() in value.lower() for label, value in zip(items.labels, values, strict=True)]
            )
        return {
            group: {name: round(float(hits[chosen].float().mean()), 4) for name, hits in found.items()}
            for group, chosen in items.groups.items()
        }


def _readable(encoder: Any, value: Any) -> Any:
    """A text without the words beyond what the encoder reads; other values as they are."""
    if isinstance(value, str):
        while len(encoder.tokenizer.encode(value).ids) > encoder.config.limit:
            value = value.rsplit(" ", 1)[0] if " " in value else value[: len(value) // 2]
    return value


def _embed(encoder: Any, values: Sequence[Any]) -> tuple[Tensor, Tensor]:
    parts = [encoder.embed(values[start : start + 256]) for start in range(0, len(values), 256)]
    return torch.cat([part.concept for part in parts]), torch.cat([part.style for part in parts])


def recognition(
    pipe: VersatileDiffusionPipeline, data: EmojiSet, count: int, seed: int = 0, **options: Any
) -> dict[str, dict[str, Rates]]:
    """Recognition rates of every task with one context, by group of items; `given` are the ceilings.

    Args:
        data: a held-out split.
        count: items of it, at most.
        seed: item k is generated with seed + k.
        options: of `VersatileDiffusionPipeline.generate`, such as `num_inference_steps`.
    """
    items, judge = Items.of(data, count), Judge.of(pipe.bank, data)
    result = {f"given {modality}": judge.rates(modality, values, items) for modality, values in items.given.items()}
    pipe.set_progress_bar_config(disable=True)
    for task in pipe.tasks():
        if len(task.flow.contexts) == 1:
            values = _generate(pipe, task, items.given[task.flow.contexts[0]], seed, options)
            result[task.name] = judge.rates(task.flow.data, values, items)
    return result


def _generate(
    pipe: VersatileDiffusionPipeline, task: Task, given: Sequence[Any], seed: int, options: Mapping[str, Any]
) -> list[Any]:
    """One value per item."""
    method = getattr(pipe, task.name.replace("-", "_"))
    values: list[Any] = []
    for start in tqdm(range(0, len(given), BATCH), desc=task.name, disable=None):
        part = list(given[start : start + BATCH])
        values.extend(method(part, seed=[seed + start + k for k in range(len(part))], **options).values)
    return values
