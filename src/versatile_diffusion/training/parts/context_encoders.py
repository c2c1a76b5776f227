"""Joint training of the context encoders of images and texts.

Both towers learn to classify the concept (a softmax over a shared table of concepts, initialised from a sentence
encoder) and the style, with a contrastive loss between the pairs of a batch. Texts are also pulled towards the row of
their concept: cross-entropy alone is low before the vectors coincide.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, UInt8
from torch import Tensor, nn

from versatile_diffusion.modalities.encoders.dual import (
    CONCEPT,
    DualEmbedding,
    DualImageEncoder,
    DualTextEncoder,
    Features,
    split,
)
from versatile_diffusion.numeric import unit
from versatile_diffusion.training.engine.loop import Objective
from versatile_diffusion.training.engine.optimizer import adamw_and_muon, split_parameters
from versatile_diffusion.training.parts.codecs import pictures_to_pixels
from versatile_diffusion.training.parts.context_data import ContextData
from versatile_diffusion.training.parts.context_metrics import measure, search_sheet


@dataclass(frozen=True)
class ContextEncodersSettings:
    """Architecture and training settings of the encoders.

    Args:
        image, text: options of `DualImageEncoder` and `DualTextEncoder`.
        pictures, captions, labels, words, phrases: images and texts per step; captions belong to the first images.
        row_pull: weight of the cosine distance between a text and its concept's row.
        style, contrast, subgroup, teacher, local: weights of the other losses; the concept loss has weight 1.
        lr, weight_decay: of AdamW; `muon_lr`, `muon_weight_decay`: of Muon for the hidden matrices.
        augment: maximum translation, scaling and shear, as a share of the image.
    """

    image: dict[str, Any]
    text: dict[str, Any]
    pictures: int = 96
    captions: int = 40
    labels: int = 32
    words: int = 32
    phrases: int = 6
    row_pull: float = 20.0
    style: float = 1.0
    contrast: float = 0.5
    subgroup: float = 0.5
    teacher: float = 2.0
    local: float = 0.5
    lr: float = 2e-3
    weight_decay: float = 0.05
    muon_lr: float = 0.02
    muon_weight_decay: float = 0.02
    augment: float = 0.1


class ContextTraining(nn.Module):
    """The two encoders with the modules that only training needs: tables of concepts and styles, heads, logit scales.

    Styles have an additional row for texts without a style.
    """

    def __init__(self, image: DualImageEncoder, text: DualTextEncoder, rows: Tensor, styles: int, subgroups: int):
        super().__init__()
        width = image.config.width
        self.image, self.text = image, text
        self.concepts = nn.Parameter(rows.clone())
        self.styles = nn.Parameter(unit(torch.randn(styles + 1, width - CONCEPT), dim=1))
        self.subgroup = nn.Linear(width, subgroups)
        self.teacher = nn.Linear(CONCEPT, 384)
        self.concept_scale = nn.Parameter(torch.tensor(2.8))
        self.style_scale = nn.Parameter(torch.tensor(2.3))
        self.contrast_scale = nn.Parameter(torch.tensor(2.3))

    def concept_logits(self, vectors: Float[Tensor, "b c"]) -> Float[Tensor, "b n"]:
        """Scaled cosine similarities to every row of the concept table."""
        return self.concept_scale.exp().clamp_max(40) * vectors @ unit(self.concepts, dim=1).T

    def style_logits(self, vectors: Float[Tensor, "b c"], none: bool) -> Float[Tensor, "b n"]:
        """Scaled cosine similarities to every style; with `none`, also to "no style" (the last)."""
        rows = unit(self.styles if none else self.styles[:-1], dim=1)
        return self.style_scale.exp().clamp_max(20) * vectors @ rows.T


@dataclass(frozen=True)
class ContextBatch:
    """A training batch. Texts are captions, then labels, then style phrases (concept -100), then single words."""

    pixels: Float[Tensor, "b 3 h w"]
    concepts: Int[Tensor, " b"]
    styles: Int[Tensor, " b"]
    subgroups: Int[Tensor, " b"]
    caption_ids: Int[Tensor, "c n"]
    short_ids: Int[Tensor, "t n"]
    text_concepts: Int[Tensor, " t"]
    text_styles: Int[Tensor, " t"]
    word_targets: Float[Tensor, "w 384"]


class ContextEncodersObjective(Objective[ContextTraining]):
    """Classification of concepts and styles with shared tables; evaluated by retrieval between images and labels."""

    name = "context-encoders"

    def __init__(self, data: ContextData, settings: ContextEncodersSettings, device: torch.device):
        self.recipe, self.device, self.batch_size, self.data = settings, device, settings.pictures, data

    def settings(self) -> dict[str, Any]:
        return asdict(self.recipe)

    def build(self) -> ContextTraining:
        data, text = self.data, DualTextEncoder(**self.recipe.text)
        text.tokenizer = data.tokenizer
        image = DualImageEncoder(**self.recipe.image).to(memory_format=torch.channels_last)
        return ContextTraining(image, text, data.rows, len(data.style_names), data.subgroup_count)

    def optimizers(self, module: ContextTraining) -> list[torch.optim.Optimizer]:
        heads = ("grid.1.", "subgroup", "teacher", "to_global", "to_local", "to_shared")
        groups = split_parameters(module, not_muon=heads)
        return adamw_and_muon(groups, self.recipe, self.recipe.muon_weight_decay)

    def batch(self, step: int, generator: torch.Generator) -> ContextBatch:
        recipe, data = self.recipe, self.data

        def draw(count: int, size: int) -> Tensor:
            return torch.randint(count, (size,), generator=generator, device=self.device)

        rows = draw(len(data.pictures), recipe.pictures)
        captions = data.captions_of(rows[: recipe.captions], generator)
        labels, phrases = draw(len(data.label_ids), recipe.labels), draw(len(data.phrase_ids), recipe.phrases)
        words = draw(len(data.word_ids), recipe.words)
        void = torch.full_like(phrases, -100)
        return ContextBatch(
            pixels=augment(pictures_to_pixels(data.pictures[rows]), recipe.augment, generator),
            concepts=data.concepts[rows],
            styles=data.styles[rows],
            subgroups=data.subgroups[rows],
            caption_ids=trim(data.caption_ids[captions]),
            short_ids=trim(torch.cat([data.label_ids[labels], data.phrase_ids[phrases], data.word_ids[words]])),
            text_concepts=torch.cat([data.concepts[rows[: recipe.captions]], labels, void]),
            text_styles=torch.cat(
                [data.caption_styles[captions], torch.full_like(labels, data.no_style), data.phrase_styles[phrases]]
            ),
            word_targets=data.word_targets[words],
        )

    def loss(self, module: ContextTraining, batch: ContextBatch) -> tuple[Tensor, dict[str, Tensor]]:
        recipe = self.recipe
        image = module.image(batch.pixels)
        captions, short = module.text(batch.caption_ids), module.text(batch.short_ids)
        named = len(batch.text_concepts)
        concept = torch.cat([captions.embedding.concept, short.embedding.concept])
        style = torch.cat([captions.embedding.style, short.embedding.style])[:named]
        local = split(image.local.mean(dim=1))
        parts = {
            "image_concept": F.cross_entropy(module.concept_logits(image.embedding.concept), batch.concepts),
            "text_concept": F.cross_entropy(module.concept_logits(concept[:named]), batch.text_concepts),
            "image_style": F.cross_entropy(module.style_logits(image.embedding.style, none=False), batch.styles),
            "text_style": F.cross_entropy(module.style_logits(style, none=True), batch.text_styles),
            "local": F.cross_entropy(module.concept_logits(local.concept), batch.concepts)
            + F.cross_entropy(module.style_logits(local.style, none=False), batch.styles),
            "subgroup": F.cross_entropy(module.subgroup(image.local.mean(dim=1)), batch.subgroups),
            "contrast": self._contrast(module, image, captions, batch),
            "row_pull": self._row_pull(module, concept[:named], batch.text_concepts),
            "teacher": 1 - F.cosine_similarity(module.teacher(concept[named:]), batch.word_targets).mean(),
        }
        weights = {
            "image_style": recipe.style,
            "text_style": recipe.style,
            "local": recipe.local,
            "subgroup": recipe.subgroup,
            "contrast": recipe.contrast,
            "row_pull": recipe.row_pull,
            "teacher": recipe.teacher,
        }
        return sum((weights.get(name, 1.0) * part for name, part in parts.items()), torch.zeros(())), parts

    def _row_pull(self, module: ContextTraining, concept: Tensor, target: Tensor) -> Tensor:
        """Cosine distance between texts and the row of their concept, without gradients for the rows."""
        has = target >= 0
        rows = module.concepts.detach()[target[has]]
        return 1 - F.cosine_similarity(concept[has], rows).mean()

    def _contrast(self, module: ContextTraining, image: Features, text: Features, batch: ContextBatch) -> Tensor:
        """Symmetric InfoNCE on the sum of both cosines; every caption that matches an image is a positive."""
        count = len(batch.caption_ids)
        concepts, styles = batch.concepts[:count], batch.styles[:count]
        named = batch.text_styles[:count]
        same_style = (styles[:, None] == named[None]) | (named == self.data.no_style)[None]
        fits = (concepts[:, None] == concepts[None]) & same_style
        logits = module.contrast_scale.exp().clamp_max(40) * _similarity(image.embedding, text.embedding, count)
        return 0.5 * (_multi_positive(logits, fits) + _multi_positive(logits.T, fits.T))

    def evaluate(self, module: ContextTraining) -> dict[str, float]:
        return measure(module.image, module.text, unit(module.concepts, dim=1), self.data)

    def sample_sheet(self, module: ContextTraining, path: Path) -> None:
        """Write a sheet of the closest images of pair-test for some queries."""
        search_sheet(module.image, module.text, self.data).save(path.with_suffix(".png"))

    def export(self, module: ContextTraining, folder: Path) -> None:
        """Save the two encoders separately, without the modules that only training needs."""
        module.text.tokenizer = self.data.tokenizer
        module.image.save_pretrained(folder / "image")
        module.text.save_pretrained(folder / "text")


@dataclass(frozen=True)
class PictureBatch:
    """A training batch of images only, with their concepts and styles."""

    pixels: Float[Tensor, "b 3 h w"]
    concepts: Int[Tensor, " b"]
    styles: Int[Tensor, " b"]

    @classmethod
    def drawn(
        cls,
        pictures: UInt8[Tensor, "n h w 3"],
        concepts: Int[Tensor, " n"],
        styles: Int[Tensor, " n"],
        size: int,
        amount: float,
        generator: torch.Generator,
    ) -> PictureBatch:
        """Sample `size` images, augmented by `amount`."""
        rows = torch.randint(len(pictures), (size,), generator=generator, device=pictures.device)
        return cls(augment(pictures_to_pixels(pictures[rows]), amount, generator), concepts[rows], styles[rows])


def trim(ids: Int[Tensor, "b n"]) -> Int[Tensor, "b m"]:
    """Token ids as int64, without the columns that are padding in every row."""
    return ids[:, : int((ids > 0).sum(dim=1).max())].long()


def augment(pixels: Float[Tensor, "b 3 h w"], amount: float, generator: torch.Generator) -> Float[Tensor, "b 3 h w"]:
    """Randomly translate, scale and shear each image, padded with white."""
    size, device = len(pixels), pixels.device
    change = amount * (2 * torch.rand(size, 2, 3, generator=generator, device=device) - 1)
    affine = change + torch.eye(2, 3, device=device)
    places = F.affine_grid(affine, list(pixels.shape), align_corners=False)
    return 1 - F.grid_sample(1 - pixels, places, align_corners=False)


def _similarity(left: DualEmbedding, right: DualEmbedding, count: int) -> Tensor:
    return left.concept[:count] @ right.concept.T + left.style[:count] @ right.style.T


def _multi_positive(logits: Float[Tensor, "a b"], fits: Tensor) -> Tensor:
    """Cross-entropy with several positives: the negative logarithm of their sum in the softmax."""
    positive = logits.masked_fill(~fits, -math.inf)
    return (logits.logsumexp(dim=1) - positive.logsumexp(dim=1)).mean()
