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

BATCH = 64


@dataclass(frozen=True)
class Reading:
    """For each value the similarity to every concept (B, C) and to every style (B, S)."""

    concepts: Tensor
    styles: Tensor

    def rates(self, concepts: Tensor, styles: Tensor) -> dict[str, float]:
        """Shares of the values whose concept is the nearest or among the five nearest, and whose style is."""
        order = self.concepts.argsort(dim=1, descending=True)
        hit = order == concepts[:, None]
        return {
            "concept R@1": float(hit[:, :1].any(1).float().mean()),
            "concept R@5": float(hit[:, :5].any(1).float().mean()),
            "style": float((self.styles.argmax(1) == styles).float().mean()),
        }


@dataclass(frozen=True)
class Judge:
    """Compares values of any modality with labels and style phrases, in the space that the encoders share."""

    bank: ModalityBank
    concepts: Tensor
    styles: Tensor

    @classmethod
    def of(cls, bank: ModalityBank, labels: Sequence[str], phrases: Sequence[Sequence[str]]) -> Judge:
        """A judge among `labels`, and among styles that each have several `phrases`."""
        encoder = bank.encoders["text"]
        styles = [encoder.embed(list(names)).style.mean(0) for names in phrases]
        return cls(bank, _embed(encoder, labels)[0], F.normalize(torch.stack(styles), dim=-1))

    def read(self, modality: str, values: Sequence[Any]) -> Reading:
        concepts, styles = _embed(self.bank.encoders[modality], values)
        return Reading(concepts @ self.concepts.T, styles @ self.styles.T)


def _embed(encoder: Any, values: Sequence[Any]) -> tuple[Tensor, Tensor]:
    parts = [encoder.embed(values[start : start + 256]) for start in range(0, len(values), 256)]
    return torch.cat([p.concept for p in parts]), torch.cat([p.style for p in parts])


def measure(
    pipe: VersatileDiffusionPipeline, data: EmojiSet, count: int, seed: int = 0, **options: Any
) -> dict[str, dict[str, float]]:
    """Recognition rates of every task with one context, on `count` items of a held-out split.

    Pictures are asked for with "label, style phrase"; captions and variations of texts are judged as texts, and counted
    as `named` when they hold the label word for word. Entry `real pictures` and `real captions` are the ceilings.

    Args:
        data: the split; its concepts should be those of the training set.
        count: items, spread evenly over the split.
        options: of `VersatileDiffusionPipeline.generate`, such as `num_inference_steps`.
    """
    rows = [round(i * len(data) / count) for i in range(min(count, len(data)))]
    trained = [i for i, part in enumerate(data.concept_parts) if part == "train" or i in set(data.concepts[rows])]
    place = {concept: position for position, concept in enumerate(trained)}
    judge = Judge.of(pipe.bank, [data.concept_names[i] for i in trained], data.style_phrases)
    concepts = torch.tensor([place[int(data.concepts[row])] for row in rows])
    styles = torch.as_tensor(data.styles[rows])
    labels = [data.labels[row] for row in rows]
    prompts = [f"{data.labels[row]}, {data.style_phrases[data.styles[row]][0]}" for row in rows]
    given = {"image": [MODALITIES["image"].check(data.pictures[row]) for row in rows], "text": prompts}

    def rates(modality: str, values: Sequence[Any]) -> dict[str, float]:
        found = judge.read(modality, values).rates(concepts, styles)
        if modality == "text":
            found["named"] = sum(a in b for a, b in zip(map(str.lower, labels), values, strict=True)) / len(labels)
        return found

    result = {"real pictures": rates("image", given["image"]), "real captions": rates("text", prompts)}
    for task in pipe.tasks():
        if len(task.flow.contexts) == 1:
            values = _generate(pipe, task.name, given[task.flow.contexts[0]], seed, options)
            result[task.name] = rates(task.flow.data, values)
    return result


def _generate(
    pipe: VersatileDiffusionPipeline, task: str, given: Sequence[Any], seed: int, options: Mapping[str, Any]
) -> list[Any]:
    """One value per item, each with the seed `seed` plus its number."""
    method = getattr(pipe, task.replace("-", "_"))
    values: list[Any] = []
    pipe.set_progress_bar_config(disable=True)
    for start in tqdm(range(0, len(given), BATCH), desc=task, disable=None):
        part = list(given[start : start + BATCH])
        output = method(part, seed=[seed + start + i for i in range(len(part))], **options)
        values.extend(output.values)
    return values
