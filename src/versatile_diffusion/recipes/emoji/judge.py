"""Training of the judge, an image classifier independent of the model: concept, style, or "nothing".

It starts from ImageNet weights and trains on real images only; part of every batch is corrupted beyond recognition and
labelled "nothing". First the heads train on frozen, precomputed features; then all but the first layers. Unlike the
model's own encoders, which may have guided the generation, the judge is never part of it.
"""

from __future__ import annotations

import copy
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from PIL import Image
from torch import Tensor

from versatile_diffusion.evaluation.judge_network import STAGES, Block, PictureJudge
from versatile_diffusion.recipes.emoji.data.reader import EmojiSet
from versatile_diffusion.recipes.emoji.imagenet import imagenet_weights
from versatile_diffusion.recipes.emoji.parts import HELD_OUT
from versatile_diffusion.recipes.emoji.spoilt import FEWEST, SPOILT, between, blur, corrupt
from versatile_diffusion.sheets import in_rows
from versatile_diffusion.training.engine.loop import Objective
from versatile_diffusion.training.engine.optimizer import split_parameters
from versatile_diffusion.training.parts.codecs import pictures_to_pixels
from versatile_diffusion.training.parts.context_encoders import augment

NO_STYLE = -100
MEASURED = 12
"""Batches for the batch norm statistics."""
MOST_CONFUSED = 40
"""Number of confused concept pairs in the export."""
SPOILT_IMAGES = 100
"""Number of images for each refusal rate."""


@dataclass(frozen=True)
class JudgeSettings:
    """Architecture and training settings of the judge.

    Args:
        splits: training splits of the set; the others are held out.
        images, nothing: real and corrupted images per step.
        views: views per image for precomputed features.
        head_steps, head_batch: steps of head training, and features per step.
        resting: number of frozen blocks, besides the layers before them.
        style: weight of the style loss.
        smoothing: label smoothing of the concepts.
        lr, weight_decay: AdamW settings of the heads; `body` is the backbone's factor on `lr`.
        augment: maximum shift, scaling and shear, as a fraction of the image.
        tint: maximum change of brightness and of each channel.
        grain: maximum noise.
        stages, width, side: as in `PictureJudge`.
        pretrained: whether to start from ImageNet weights.
    """

    splits: Sequence[str] = ("train", "pair-val", "concept-val")
    pictures: int = 55
    nothing: int = 9
    views: int = 1
    head_steps: int = 100
    head_batch: int = 512
    resting: int = 5
    style: float = 0.4
    smoothing: float = 0.1
    lr: float = 4e-3
    body: float = 0.25
    weight_decay: float = 0.05
    augment: float = 0.12
    tint: float = 0.15
    grain: float = 0.06
    stages: Sequence[Sequence[int]] = STAGES
    width: int = 1280
    side: int = 96
    pretrained: bool = True

    def __post_init__(self) -> None:
        if self.nothing < FEWEST:
            raise ValueError(f"nothing is {self.nothing}; it must be {FEWEST} or more")


@dataclass(frozen=True)
class JudgeBatch:
    """Images, or features in the first steps. The last ones are corrupted; their style is ignored."""

    pixels: Float[Tensor, "b 3 h w"] | None
    features: Float[Tensor, "b d"] | None
    concepts: Int[Tensor, " b"]
    styles: Int[Tensor, " b"]


class JudgeObjective(Objective[PictureJudge]):
    """Cross-entropy over the concepts and "nothing", and over the styles of real images."""

    name = "judge"

    def __init__(self, data: Path, settings: JudgeSettings, device: torch.device):
        self.recipe, self.device = settings, device
        self.batch_size = settings.pictures + settings.nothing
        parts = [EmojiSet.load(data, split) for split in settings.splits]
        kept = [_without_siblings(part) for part in parts]
        numbers = np.concatenate([part.concepts[rows] for part, rows in zip(parts, kept, strict=True)])
        known = np.unique(numbers)
        self.concept_keys = [parts[0].concept_keys[row] for row in known]
        self.concept_names = [parts[0].concept_names[row] for row in known]
        self.style_names = parts[0].style_names
        self.pictures = _join([part.pictures[rows] for part, rows in zip(parts, kept, strict=True)], device)
        self.concepts = torch.from_numpy(np.searchsorted(known, numbers)).to(device)
        self.styles = _join([part.styles[rows] for part, rows in zip(parts, kept, strict=True)], device)
        mirrors = [part.may_mirror(row) for part, rows in zip(parts, kept, strict=True) for row in rows]
        self.mirrors = torch.tensor(mirrors, device=device)
        unseen = [split for split in HELD_OUT if split not in settings.splits]
        self.held_out = {split: EmojiSet.load(data, split) for split in unseen}

    def settings(self) -> dict[str, Any]:
        return asdict(self.recipe)

    def build(self) -> PictureJudge:
        judge = copy.deepcopy(self._start)
        blocks = [place for place, layer in enumerate(judge.grid) if isinstance(layer, Block)]
        judge.grid[: blocks[self.recipe.resting]].requires_grad_(False)
        return judge

    @cached_property
    def _start(self) -> PictureJudge:
        """Build the judge before the first step."""
        recipe = self.recipe
        shape: dict[str, Any] = {
            "stages": [list(stage) for stage in recipe.stages],
            "width": recipe.width,
            "side": recipe.side,
        }
        judge = PictureJudge(self.concept_keys, self.style_names, self.concept_names, **shape).to(self.device)
        if recipe.pretrained:
            judge.start_from(imagenet_weights())
        judge = judge.to(memory_format=torch.channels_last)
        generator = torch.Generator(self.device).manual_seed(0)
        judge.measure_statistics([self._drawn(self._some(generator), generator) for _ in range(MEASURED)])
        return judge.eval()

    @cached_property
    def _features(self) -> tuple[Tensor, Tensor, Tensor]:
        """Compute features of all images in several views, some corrupted; with concepts and styles."""
        recipe, generator = self.recipe, torch.Generator(self.device).manual_seed(1)
        rows = torch.arange(len(self.pictures), device=self.device).repeat(recipe.views)
        rows = rows[torch.randperm(len(rows), generator=generator, device=self.device)]
        parts = [self._labelled(part, generator) for part in torch.split(rows, self.batch_size)]
        with torch.no_grad():
            features = torch.cat([self._start.embed(part.pixels) for part in parts if part.pixels is not None])
        return features, torch.cat([part.concepts for part in parts]), torch.cat([part.styles for part in parts])

    def optimizers(self, module: PictureJudge) -> list[torch.optim.Optimizer]:
        recipe, groups = self.recipe, split_parameters(module, muon=False)
        (adamw,) = groups.optimizers(recipe.lr, recipe.weight_decay, (0.9, 0.99))
        heads = {id(p) for head in (module.to_concept, module.to_style) for p in head.parameters()}
        parts = []
        for group in adamw.param_groups:
            body = [p for p in group["params"] if id(p) not in heads]
            parts += [{**group, "params": [p for p in group["params"] if id(p) in heads]}]
            parts += [{**group, "params": body, "lr": recipe.lr * recipe.body}]
        adamw.param_groups[:] = parts
        return [adamw]

    def batch(self, step: int, generator: torch.Generator) -> JudgeBatch:
        """Draw augmented images, the last ones corrupted; in the first steps their features."""
        if step >= self.recipe.head_steps:
            return self._labelled(self._some(generator), generator)
        features, concepts, styles = self._features
        rows = torch.randint(len(features), (self.recipe.head_batch,), generator=generator, device=self.device)
        return JudgeBatch(None, features[rows], concepts[rows], styles[rows])

    def items(self, step: int) -> int:
        return self.batch_size if step >= self.recipe.head_steps else self.recipe.head_batch

    def _some(self, generator: torch.Generator) -> Int[Tensor, " b"]:
        return torch.randint(len(self.pictures), (self.batch_size,), generator=generator, device=self.device)

    def _labelled(self, rows: Int[Tensor, " b"], generator: torch.Generator) -> JudgeBatch:
        """Return these images, augmented, with labels."""
        concepts, styles = self.concepts[rows].clone(), self.styles[rows].clone()
        concepts[self.recipe.pictures :], styles[self.recipe.pictures :] = len(self.concept_keys), NO_STYLE
        return JudgeBatch(self._drawn(rows, generator), None, concepts, styles)

    def _drawn(self, rows: Int[Tensor, " b"], generator: torch.Generator) -> Float[Tensor, "b 3 h w"]:
        """Augment images by random shifts, mirroring where allowed, and tints; corrupt the last ones."""
        recipe = self.recipe
        pixels = augment(pictures_to_pixels(self.pictures[rows]), recipe.augment, generator)
        turned = (between(0, 1, generator, len(rows)) < 0.5) & self.mirrors[rows, None, None, None]
        pixels = torch.where(turned, pixels.flip(3), pixels)
        real, rest = pixels[: recipe.pictures], pixels[recipe.pictures :]
        parts = [_degrade(real, recipe, generator)]
        parts += [corrupt(rest, generator)] if len(rest) >= FEWEST else [rest.roll(1, 1)] if len(rest) else []
        return _tint(torch.cat(parts), recipe, generator)

    def loss(self, module: PictureJudge, batch: JudgeBatch) -> tuple[Tensor, dict[str, Tensor]]:
        verdict = module(batch.pixels) if batch.features is None else module.heads(batch.features)
        logits = torch.cat([verdict.concept, verdict.nothing[:, None]], dim=1)
        concept = F.cross_entropy(logits, batch.concepts, label_smoothing=self.recipe.smoothing)
        style = F.cross_entropy(verdict.style, batch.styles, ignore_index=NO_STYLE)
        return concept + self.recipe.style * style, {"concept": concept, "style": style}

    def evaluate(self, module: PictureJudge) -> dict[str, float]:
        """Return rates in per cent on held-out images: recognised, refused real images, and refused corrupted images.
        Unknown concepts are ignored."""
        found: dict[str, float] = {}
        for split, data in self.held_out.items():
            found |= {f"{split}/{name}": value for name, value in accuracy(module, data).items()}
        data = self.held_out["pair-test"]
        return found | {f"pair-test/{name}": value for name, value in refusals(module, data, self.device).items()}

    def sample_sheet(self, module: PictureJudge, path: Path) -> None:
        """Show pair-test images above training images of the predicted concept; white: nothing."""
        data = self.held_out["pair-test"]
        rows = np.linspace(0, len(data) - 1, 16).astype(int)
        found = module.judge(data.pictures[rows]).likeliest(1)[:, 0].tolist()
        shown = np.full_like(data.pictures[rows], 255)
        for place, concept in enumerate(found):
            if concept >= 0:
                shown[place] = self.pictures[int((self.concepts == concept).nonzero()[0, 0])].cpu().numpy()
        real, nearest = ([Image.fromarray(one) for one in images] for images in (data.pictures[rows], shown))
        in_rows(real, nearest, columns=len(rows)).save(path.with_suffix(".png"))

    def export(self, module: PictureJudge, folder: Path) -> None:
        """Write the judge, and its confusions on pair-test (`confusions.json`)."""
        module.save_pretrained(folder)
        text = json.dumps(confusions(module, self.held_out["pair-test"])[:MOST_CONFUSED], indent=1, ensure_ascii=False)
        (folder / "confusions.json").write_text(text + "\n", encoding="utf-8")


def _without_siblings(data: EmojiSet) -> list[int]:
    """Rows of a split but for those with the same outlines as the images of pair-test that count as without sibling.
    (Of `train` these are all.)"""
    drawing = dict(zip(data.style_names, data.drawings, strict=True))
    alone = {(drawing[style], key) for style, key in data.alone}
    drawn = ((data.drawings[s], data.concept_keys[c]) for s, c in zip(data.styles, data.concepts, strict=True))
    return [row for row, what in enumerate(drawn) if what not in alone]


def _join(parts: list[np.ndarray], device: torch.device) -> Tensor:
    return torch.from_numpy(np.concatenate(parts)).to(device)


def _degrade(pixels: Tensor, recipe: JudgeSettings, generator: torch.Generator) -> Tensor:
    """Degrade images slightly by blur, noise or a missing patch, as a codec may; they stay recognisable."""
    size, side = len(pixels), pixels.shape[-1]
    soft = between(-1, 1, generator, size).clamp(min=0)
    pixels = pixels + soft * (blur(pixels, side / 64) - pixels)
    grain = between(-recipe.grain, recipe.grain, generator, size).clamp(min=0)
    pixels = pixels + grain * torch.randn(pixels.shape, generator=generator, device=pixels.device)
    place = torch.arange(side, device=pixels.device)
    patch = torch.ones_like(pixels[:, :1], dtype=torch.bool)
    for shape in ((1, 1, side, 1), (1, 1, 1, side)):
        middle, half = between(0, side, generator, size), between(0, side / 5, generator, size)
        patch = patch & ((place.view(shape) - middle).abs() < half)
    patch = patch & (between(0, 1, generator, size) < 0.3)
    return torch.where(patch, torch.ones_like(pixels), pixels)


def _tint(pixels: Tensor, recipe: JudgeSettings, generator: torch.Generator) -> Tensor:
    """Scale the contrast of each image, overall and per channel."""
    changes = 2 * torch.rand(len(pixels), 4, 1, 1, generator=generator, device=pixels.device) - 1
    factor = 1 + recipe.tint * (changes[:, :1] + 0.5 * changes[:, 1:])
    return (1 - factor * (1 - pixels)).clamp(0, 1)


def accuracy(judge: PictureJudge, data: EmojiSet) -> dict[str, float]:
    """Per cent of the images whose style is recognised, that are refused, and of those of known concepts whose concept
    is the first or among the first five; of those without a drawing of the same outlines in training also apart."""
    verdict, styles = judge.judge(data.pictures), torch.from_numpy(data.styles)
    everything = torch.ones(len(data), dtype=torch.bool)
    concepts = _places(judge, data)
    hits = {"style": (verdict.style.argmax(1).cpu() == styles, everything)}
    if (known := concepts >= 0).any():
        hits["refused"] = verdict.refused.cpu(), known
        hit = verdict.likeliest(5).cpu() == concepts[:, None]
        alone = torch.from_numpy(data.no_sibling)
        for name, part in (("", known), ("no_sibling/", known & alone)):
            hits |= {f"{name}concept_top1": (hit[:, 0], part), f"{name}concept_top5": (hit.any(1), part)}
    return {name: 100 * float(right[part].float().mean()) for name, (right, part) in hits.items() if part.any()}


def refusals(judge: PictureJudge, data: EmojiSet, device: torch.device, seed: int = 0) -> dict[str, float]:
    """Return refusal rates in per cent of about `SPOILT_IMAGES` corrupted images of a split, by corruption."""
    chosen = torch.from_numpy(data.pictures[:: max(1, len(data.pictures) // SPOILT_IMAGES)])
    order = torch.randperm(len(chosen), generator=torch.Generator().manual_seed(seed))  # neighbours are similar
    pixels, generator = pictures_to_pixels(chosen[order]).to(device), torch.Generator(device)
    found = {}
    for way, spoil in SPOILT.items():
        images = spoil(pixels, generator.manual_seed(seed)).clamp(0, 1)
        stored = rearrange((255 * images).round().byte().cpu().numpy(), "n c h w -> n h w c")
        found[f"refused/{way}"] = 100 * float(judge.judge(stored).refused.float().mean())
    return found


def confusions(judge: PictureJudge, data: EmojiSet) -> list[dict[str, Any]]:
    """List the confusions of known concepts, most frequent first; `taken_for` is null for refused images."""
    names = dict(zip(data.concept_keys, data.concept_names, strict=True))
    found = judge.judge(data.pictures).likeliest(1)[:, 0].tolist()
    wrong = Counter(
        (data.labels[row], None if guess < 0 else names[judge.config.concepts[guess]])
        for row, (guess, right) in enumerate(zip(found, _places(judge, data).tolist(), strict=True))
        if right >= 0 and guess != right
    )
    return [{"shown": shown, "taken_for": taken, "times": times} for (shown, taken), times in wrong.most_common()]


def _places(judge: PictureJudge, data: EmojiSet) -> Int[Tensor, " n"]:
    """Return the index of each image's concept in the judge, -1 if unknown."""
    place = {key: row for row, key in enumerate(judge.config.concepts)}
    return torch.tensor([place.get(data.concept_keys[row], -1) for row in data.concepts])
