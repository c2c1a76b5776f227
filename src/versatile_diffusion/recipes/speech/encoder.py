"""Training of the audio context encoder, in the space of a model's text and image encoders, which stay as they are."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from versatile_diffusion.modalities.audio.encoder import DualAudioEncoder
from versatile_diffusion.modalities.encoders.dual import CONCEPT, DualTextEncoder, split
from versatile_diffusion.numeric import unit
from versatile_diffusion.recipes.speech.data.reader import SpeechSet
from versatile_diffusion.recipes.speech.levels import louder, mask_stripes, noisy, shift_later
from versatile_diffusion.training.engine.loop import Objective
from versatile_diffusion.training.engine.optimizer import adamw_and_muon, split_parameters


@dataclass(frozen=True)
class AudioContextSettings:
    """What the encoder is and how it is trained.

    Args:
        encoder: options of `DualAudioEncoder`.
        batch_size: recordings per step.
        pull: weight of the cosine between a recording and its word's text.
        voice, local: weights of the losses on the voice, and on the mean of the local tokens; the word's is one.
        lr, weight_decay: of AdamW; `muon_lr`, `muon_weight_decay`: of Muon for the matrices between.
        shift: largest move in frames.
        gain: largest change of loudness in dB.
        bands, frames: largest stripes that are silenced.
        noise: largest noise.
    """

    encoder: dict[str, Any] = field(default_factory=dict)
    batch_size: int = 48
    pull: float = 5.0
    voice: float = 0.5
    local: float = 0.5
    lr: float = 2e-3
    weight_decay: float = 0.05
    muon_lr: float = 0.02
    muon_weight_decay: float = 0.02
    shift: int = 8
    gain: float = 4.0
    bands: int = 8
    frames: int = 12
    noise: float = 0.05


class AudioContextTraining(nn.Module):
    """The encoder with what only training needs: the words as the text encoder has them, and a table of voices."""

    words: Tensor

    def __init__(self, encoder: DualAudioEncoder, words: Float[Tensor, "k c"], voices: int):
        super().__init__()
        self.encoder = encoder
        self.register_buffer("words", words)
        self.voices = nn.Parameter(unit(torch.randn(voices, encoder.config.width - CONCEPT), dim=1))
        self.word_scale = nn.Parameter(torch.tensor(2.8))
        self.voice_scale = nn.Parameter(torch.tensor(2.3))

    def word_logits(self, vectors: Float[Tensor, "b c"]) -> Float[Tensor, "b k"]:
        """Scaled cosines to every word."""
        return self.word_scale.exp().clamp_max(40) * vectors @ self.words.T

    def voice_logits(self, vectors: Float[Tensor, "b s"]) -> Float[Tensor, "b v"]:
        """Scaled cosines to every voice."""
        return self.voice_scale.exp().clamp_max(20) * vectors @ unit(self.voices, dim=1).T


@dataclass(frozen=True)
class Spoken:
    """Recordings with words and voices, on the device."""

    levels: Float[Tensor, "n 1 bands frames"]
    words: Int[Tensor, " n"]
    voices: Int[Tensor, " n"]

    @classmethod
    def of(cls, data: SpeechSet, device: torch.device) -> Spoken:
        words, voices = torch.from_numpy(data.concepts).to(device), torch.from_numpy(data.voices).to(device)
        return cls(data.levels().to(device), words, voices)


class AudioContextObjective(Objective[AudioContextTraining]):
    """Naming word and voice; words are the vectors that the text encoder has for their labels.

    Args:
        train: the training split.
        held_out: splits to measure on, by name.
        text: the model's text encoder.
        settings: of the encoder and its training.
        device: where to train.
    """

    name = "audio-context"

    def __init__(
        self,
        train: SpeechSet,
        held_out: dict[str, SpeechSet],
        text: DualTextEncoder,
        settings: AudioContextSettings,
        device: torch.device,
    ):
        self.recipe, self.device, self.batch_size = settings, device, settings.batch_size
        self.train = Spoken.of(train, device)
        self.held_out = {split: Spoken.of(data, device) for split, data in held_out.items()}
        self.words = text.to(device).compare(train.concept_names).float()
        known = torch.tensor([part == "train" for part in train.concept_parts], device=device)
        self.unknown = ~known
        self.voices = len(train.voice_names)

    def settings(self) -> dict[str, Any]:
        return asdict(self.recipe)

    def build(self) -> AudioContextTraining:
        encoder = DualAudioEncoder(**self.recipe.encoder).to(memory_format=torch.channels_last)
        return AudioContextTraining(encoder, self.words.clone(), self.voices)

    def optimizers(self, module: AudioContextTraining) -> list[torch.optim.Optimizer]:
        groups = split_parameters(module, not_muon=("grid.1.", "to_global", "to_local"))
        return adamw_and_muon(groups, self.recipe, self.recipe.muon_weight_decay)

    def batch(self, step: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Augmented levels, words and voices."""
        recipe, data = self.recipe, self.train
        rows = torch.randint(len(data.levels), (self.batch_size,), generator=generator, device=self.device)
        levels = louder(shift_later(data.levels[rows].float(), recipe.shift, generator), recipe.gain, generator)
        levels = noisy(mask_stripes(levels, recipe.bands, recipe.frames, generator), recipe.noise, generator)
        return levels, data.words[rows], data.voices[rows]

    def loss(
        self, module: AudioContextTraining, batch: tuple[Tensor, Tensor, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        levels, words, voices = batch
        found = module.encoder(levels)
        local = split(found.local.mean(dim=1))
        hidden = torch.where(self.unknown, -torch.inf, 0.0)  # words that are never spoken in training
        parts = {
            "word": F.cross_entropy(module.word_logits(found.embedding.concept) + hidden, words),
            "voice": F.cross_entropy(module.voice_logits(found.embedding.style), voices),
            "local": F.cross_entropy(module.word_logits(local.concept) + hidden, words)
            + F.cross_entropy(module.voice_logits(local.style), voices),
            "pull": 1 - (found.embedding.concept * module.words[words]).sum(1).mean(),
        }
        recipe = self.recipe
        weights = {"voice": recipe.voice, "local": recipe.local, "pull": recipe.pull}
        return sum((weights.get(name, 1.0) * part for name, part in parts.items()), torch.zeros(())), parts

    def evaluate(self, module: AudioContextTraining) -> dict[str, float]:
        """The word among all words, first and among the first five, and the voice, in per cent."""
        found: dict[str, float] = {}
        for name, data in self.held_out.items():
            parts = [module.encoder(part.float()).embedding for part in torch.split(data.levels, 64)]
            concepts, styles = torch.cat([p.concept for p in parts]), torch.cat([p.style for p in parts])
            order = module.word_logits(concepts).topk(min(5, len(module.words))).indices == data.words[:, None]
            voice = module.voice_logits(styles).argmax(1) == data.voices
            found[f"word/{name}"] = 100 * float(order[:, 0].float().mean())
            found[f"word-5/{name}"] = 100 * float(order.any(1).float().mean())
            found[f"voice/{name}"] = 100 * float(voice.float().mean())
        return found

    def export(self, module: AudioContextTraining, folder: Path) -> None:
        """Writes the encoder without what only training needs."""
        module.encoder.save_pretrained(folder)
