"""Training of the image encoder alone, with a frozen text encoder.

The text tower is learnt in minutes, the image tower takes an hour. With the text encoder frozen, the labels form the
classifier: an image's vector should match that of its label among all labels, and the phrases of its style. So image
and text embeddings of one concept coincide, and models trained on the text tokens stay valid.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from versatile_diffusion.modalities.encoders.dual import DualEmbedding, DualImageEncoder, DualTextEncoder, split
from versatile_diffusion.numeric import unit
from versatile_diffusion.training.engine.loop import Objective
from versatile_diffusion.training.engine.optimizer import adamw_and_muon, split_parameters
from versatile_diffusion.training.parts.context_data import ContextData
from versatile_diffusion.training.parts.context_encoders import PictureBatch
from versatile_diffusion.training.parts.context_metrics import measure, search_sheet


@dataclass(frozen=True)
class ImageContextSettings:
    """Training settings of the image encoder.

    Args:
        pictures: images per step.
        local: weight of the same losses on the mean of the local tokens.
        smoothing: label smoothing of the concepts.
        lr, weight_decay: of AdamW; `muon_lr`, `muon_weight_decay`: of Muon for the hidden matrices.
        augment: maximum translation, scaling and shear, as a share of the image.
    """

    pictures: int = 96
    local: float = 0.5
    smoothing: float = 0.1
    lr: float = 1e-3
    weight_decay: float = 0.05
    muon_lr: float = 0.02
    muon_weight_decay: float = 0.02
    augment: float = 0.12


class ImageContextTraining(nn.Module):
    """The image encoder and its logit scales; `labels` (K, 160) and `styles` (S, 32) have unit norm."""

    labels: Tensor
    styles: Tensor

    def __init__(self, image: DualImageEncoder, labels: Float[Tensor, "k c"], styles: Float[Tensor, "s d"]):
        super().__init__()
        self.image = image
        self.register_buffer("labels", labels)
        self.register_buffer("styles", styles)
        self.concept_scale = nn.Parameter(torch.tensor(3.2))
        self.style_scale = nn.Parameter(torch.tensor(2.3))

    def logits(self, vectors: DualEmbedding) -> tuple[Float[Tensor, "b k"], Float[Tensor, "b s"]]:
        """Scaled cosine similarities to every label and to every style."""
        concept = self.concept_scale.exp().clamp_max(40) * vectors.concept @ self.labels.T
        return concept, self.style_scale.exp().clamp_max(20) * vectors.style @ self.styles.T


class ImageContextObjective(Objective[ImageContextTraining]):
    """Classification of images with the labels and styles of a frozen text encoder.

    Args:
        image: the encoder to train.
        text: the frozen text encoder.
        data: images, labels and styles.
        settings: of the training.
        device: to train on.
    """

    name = "image-context"

    def __init__(
        self,
        image: DualImageEncoder,
        text: DualTextEncoder,
        data: ContextData,
        settings: ImageContextSettings,
        device: torch.device,
    ):
        self.image, self.text, self.data, self.recipe = image, text.eval(), data, settings
        self.device, self.batch_size = device, settings.pictures

    def settings(self) -> dict[str, Any]:
        return asdict(self.recipe)

    def build(self) -> ImageContextTraining:
        with torch.no_grad():
            labels = self.text(self.data.label_ids.long()).embedding.concept
            phrases = [self.text.embed(list(phrases)).style.mean(dim=0) for phrases in self.data.style_phrases]
        image = self.image.to(memory_format=torch.channels_last)
        return ImageContextTraining(image, labels, unit(torch.stack(phrases), dim=1))

    def optimizers(self, module: ImageContextTraining) -> list[torch.optim.Optimizer]:
        groups = split_parameters(module, not_muon=("grid.1.", "to_global", "to_local"))
        return adamw_and_muon(groups, self.recipe, self.recipe.muon_weight_decay)

    def batch(self, step: int, generator: torch.Generator) -> PictureBatch:
        known = self.data.pictures, self.data.concepts, self.data.styles
        return PictureBatch.drawn(*known, self.batch_size, self.recipe.augment, generator)

    def loss(self, module: ImageContextTraining, batch: PictureBatch) -> tuple[Tensor, dict[str, Tensor]]:
        features = module.image(batch.pixels)
        views = {"global": (features.embedding, 1.0), "local": (split(features.local.mean(dim=1)), self.recipe.local)}
        total, parts = torch.zeros((), device=batch.pixels.device), {}
        for name, (vectors, weight) in views.items():
            concept, style = module.logits(vectors)
            parts[f"{name}_concept"] = F.cross_entropy(concept, batch.concepts, label_smoothing=self.recipe.smoothing)
            parts[f"{name}_style"] = F.cross_entropy(style, batch.styles)
            total = total + weight * (parts[f"{name}_concept"] + parts[f"{name}_style"])
        return total, parts

    def evaluate(self, module: ImageContextTraining) -> dict[str, float]:
        return measure(module.image, self.text, module.labels, self.data)

    def sample_sheet(self, module: ImageContextTraining, path: Path) -> None:
        """Write a sheet of the closest images of pair-test for some queries."""
        search_sheet(module.image, self.text, self.data).save(path.with_suffix(".png"))

    def export(self, module: ImageContextTraining, folder: Path) -> None:
        module.image.save_pretrained(folder)
