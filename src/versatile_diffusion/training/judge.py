"""A judge of pictures that shares nothing with the model: which concept, and in which style.

Another architecture than the context encoders (residual blocks with group norm, a softmax over concepts, no texts) and
other seeds, trained on the real pictures alone. What the model's own encoders find in a generated picture may be what
they themselves were asked for; this judge was never asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange, reduce
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor, nn

from versatile_diffusion.data.emoji.reader import EmojiSet
from versatile_diffusion.training.codecs import pictures_to_pixels
from versatile_diffusion.training.context_data import HELD_OUT
from versatile_diffusion.training.context_encoders import PictureBatch
from versatile_diffusion.training.loop import Objective
from versatile_diffusion.training.optimizer import adamw_and_muon


@dataclass(frozen=True)
class Verdict:
    """What the judge says of a batch: logits over its concepts and its styles, and the features below them."""

    concept: Float[Tensor, "b k"]
    style: Float[Tensor, "b s"]
    features: Float[Tensor, "b d"]


class _Block(nn.Module):
    """Group norm, SiLU, 3 x 3 convolution, twice, added to the input."""

    def __init__(self, width: int):
        super().__init__()
        self.layers = nn.Sequential(*_norm_conv(width, width), *_norm_conv(width, width))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return x + self.layers(x)


def _norm_conv(width: int, out: int, stride: int = 1) -> tuple[nn.Module, ...]:
    return nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, out, 3, stride=stride, padding=1, bias=False)


class PictureJudge(ModelMixin, ConfigMixin):
    """A residual network over patches of 4 x 4 pixels, 2.3 M parameters.

    Args:
        concepts: keys of the concepts that it tells apart, in the order of its logits.
        styles: names of the styles, likewise.
        widths: channels at a fourth, an eighth and a sixteenth of the picture's side.
        side: of the pictures that it is meant for, in pixels; it takes other multiples of 16.
    """

    @register_to_config
    def __init__(
        self, concepts: Sequence[str], styles: Sequence[str], widths: Sequence[int] = (48, 128, 256), side: int = 64
    ):
        super().__init__()
        low, middle, high = widths
        self.grid = nn.Sequential(
            nn.PixelUnshuffle(4),
            nn.Conv2d(48, low, 3, padding=1),
            _Block(low),
            *_norm_conv(low, middle, stride=2),
            _Block(middle),
            *_norm_conv(middle, high, stride=2),
            _Block(high),
            nn.GroupNorm(8, high),
            nn.SiLU(),
        )
        self.to_concept = nn.Linear(high, len(concepts))
        self.to_style = nn.Linear(high, len(styles))

    def forward(self, pixels: Float[Tensor, "b 3 h w"]) -> Verdict:
        """The verdict on pixels in [0, 1]; white counts as nothing."""
        features = reduce(self.grid(1.5 * (1 - pixels)), "b c h w -> b c", "mean")
        return Verdict(self.to_concept(features), self.to_style(features), features)

    @torch.no_grad()
    def judge(self, pictures: UInt8[np.ndarray, "n h w 3"], batch_size: int = 128) -> Verdict:
        """The verdict on pictures as they are stored."""
        parts = [
            self(pictures_to_pixels(part.to(self.device))) for part in torch.from_numpy(pictures).split(batch_size)
        ]
        return Verdict(*(torch.cat([getattr(part, name) for part in parts]) for name in Verdict.__dataclass_fields__))


@dataclass(frozen=True)
class JudgeSettings:
    """How the judge is trained.

    Args:
        pictures: items per step.
        small_side, small_steps: the side of the pictures in the first steps, which cost less; after them, the whole.
        style: weight of the style's loss.
        smoothing: label smoothing of the concepts.
        lr, weight_decay: of AdamW; `muon_lr`, `muon_weight_decay`: of Muon for the filters.
        augment: largest shift, change of scale and shear, as a share of the picture.
    """

    pictures: int = 96
    small_side: int = 48
    small_steps: int = 550
    style: float = 0.4
    smoothing: float = 0.1
    lr: float = 2e-3
    weight_decay: float = 0.05
    muon_lr: float = 0.02
    muon_weight_decay: float = 0.02
    augment: float = 0.12


class JudgeObjective(Objective[PictureJudge]):
    """Cross-entropy over the training concepts and the styles of real pictures."""

    name = "judge"

    def __init__(self, data: Path, settings: JudgeSettings, device: torch.device):
        self.recipe, self.device, self.batch_size = settings, device, settings.pictures
        train = EmojiSet.load(data, "train")
        known = np.unique(train.concepts)
        self.concept_keys = [train.concept_keys[row] for row in known]
        self.style_names = train.style_names
        self.pictures = torch.from_numpy(train.pictures).to(device)
        self.concepts = torch.from_numpy(np.searchsorted(known, train.concepts)).to(device)
        self.styles = torch.from_numpy(train.styles).to(device)
        self.held_out = {split: EmojiSet.load(data, split) for split in HELD_OUT}

    def settings(self) -> dict[str, Any]:
        return asdict(self.recipe)

    def build(self) -> PictureJudge:
        judge = PictureJudge(self.concept_keys, self.style_names, side=self.pictures.shape[1])
        return judge.to(memory_format=torch.channels_last)

    def optimizers(self, module: PictureJudge) -> list[torch.optim.Optimizer]:
        return adamw_and_muon(module, self.recipe, ("grid.1.", "to_concept", "to_style"))

    def batch(self, step: int, generator: torch.Generator) -> PictureBatch:
        """Augmented pictures; the first steps have small ones."""
        known = self.pictures, self.concepts, self.styles
        batch = PictureBatch.drawn(*known, self.batch_size, self.recipe.augment, generator)
        if step >= self.recipe.small_steps:
            return batch
        return replace(batch, pixels=F.interpolate(batch.pixels, size=self.recipe.small_side, mode="area"))

    def loss(self, module: PictureJudge, batch: PictureBatch) -> tuple[Tensor, dict[str, Tensor]]:
        verdict = module(batch.pixels.contiguous(memory_format=torch.channels_last))
        concept = F.cross_entropy(verdict.concept, batch.concepts, label_smoothing=self.recipe.smoothing)
        style = F.cross_entropy(verdict.style, batch.styles)
        return concept + self.recipe.style * style, {"concept": concept, "style": style}

    def evaluate(self, module: PictureJudge) -> dict[str, float]:
        """Accuracies in per cent on held-out pictures; of `concept-test`, whose concepts are unknown, of the style."""
        return {
            f"{split}/{name}": value
            for split, data in self.held_out.items()
            for name, value in accuracy(module, data).items()
        }

    def sample_sheet(self, module: PictureJudge, path: Path) -> None:
        """Pictures of pair-test above training pictures of the concept that the judge takes them for."""
        data = self.held_out["pair-test"]
        rows = np.linspace(0, len(data) - 1, 16).astype(int)
        found = module.judge(data.pictures[rows]).concept.argmax(1)
        first = [int((self.concepts == concept).nonzero()[0, 0]) for concept in found]
        sheet = np.stack([data.pictures[rows], self.pictures[first].cpu().numpy()])
        Image.fromarray(rearrange(sheet, "two n h w c -> (two h) (n w) c")).save(path.with_suffix(".png"))

    def export(self, module: PictureJudge, folder: Path) -> None:
        module.save_pretrained(folder)


def accuracy(judge: PictureJudge, data: EmojiSet) -> dict[str, float]:
    """Per cent of the pictures whose style is recognised, and of those of known concepts whose concept is the first or
    among the first five; of those without a drawing of the same outlines in training also apart."""
    verdict, styles = judge.judge(data.pictures), torch.from_numpy(data.styles)
    place = {key: row for row, key in enumerate(judge.config.concepts)}
    concepts = torch.tensor([place.get(data.concept_keys[row], -1) for row in data.concepts])
    hits = {"style": (verdict.style.argmax(1).cpu() == styles, torch.ones(len(data), dtype=torch.bool))}
    if (known := concepts >= 0).any():
        hit = verdict.concept.topk(5).indices.cpu() == concepts[:, None]
        alone = torch.from_numpy(data.no_sibling)
        for name, part in (("", known), ("no_sibling/", known & alone)):
            hits |= {f"{name}concept_top1": (hit[:, 0], part), f"{name}concept_top5": (hit.any(1), part)}
    return {name: 100 * float(right[part].float().mean()) for name, (right, part) in hits.items() if part.any()}
