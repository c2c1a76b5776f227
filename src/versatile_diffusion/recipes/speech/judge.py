"""The judges of recordings, apart from the model: a word classifier and a voice classifier, and their training.

They share nothing with each other, and nothing with the model's own encoder: other layers, other seeds, other
augmentation, trained on real recordings alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from versatile_diffusion.modalities.audio.spectrogram import BANDS
from versatile_diffusion.modalities.audio.vae import levels_of
from versatile_diffusion.modalities.audio.waveform import Waveform
from versatile_diffusion.recipes.speech.data.reader import SpeechSet
from versatile_diffusion.recipes.speech.levels import blur_share, louder, mask_stripes, noisy, shift_later
from versatile_diffusion.training.engine.loop import Objective
from versatile_diffusion.training.engine.optimizer import split_parameters

BATCH = 64


def _stage(channels: int, out: int, stride: tuple[int, int]) -> list[nn.Module]:
    """Return a depthwise and a pointwise convolution with batch norms."""
    return [
        nn.Conv2d(channels, channels, 5, stride=stride, padding=2, groups=channels, bias=False),
        nn.BatchNorm2d(channels),
        nn.Conv2d(channels, out, 1, bias=False),
        nn.BatchNorm2d(out),
        nn.Hardswish(),
    ]


def _tower(low: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, low, 5, stride=2, padding=2, bias=False),
        nn.BatchNorm2d(low),
        nn.Hardswish(),
        *_stage(low, 2 * low, (2, 1)),
        *_stage(2 * low, 4 * low, (2, 2)),
        *_stage(4 * low, width, (2, 1)),
    )


class SpeechJudge(ModelMixin, ConfigMixin):
    """Two classifiers of recordings, of words and of voices.

    Args:
        words: concept keys in the order of the logits.
        voices: voice names in the order of the logits.
        names: the words themselves.
        low, width: channels of the first and of the last layer of both towers.
        dropout: dropout of the features in training.
    """

    @register_to_config
    def __init__(
        self,
        words: Sequence[str],
        voices: Sequence[str],
        names: Sequence[str] = (),
        low: int = 16,
        width: int = 96,
        dropout: float = 0.2,
    ):
        super().__init__()
        rows = BANDS // 16
        self.word_tower, self.voice_tower = _tower(low, width), _tower(low, width)
        self.in_order = nn.Sequential(  # words are sequences: convolutions over time
            nn.Conv1d(width * rows, 2 * width, 5, stride=2, padding=2),
            nn.BatchNorm1d(2 * width),
            nn.Hardswish(),
        )
        self.to_word = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(2 * width * 12, 256), nn.Hardswish(), nn.Linear(256, len(words))
        )
        self.to_voice = nn.Sequential(nn.Dropout(dropout), nn.Linear(2 * width * rows, len(voices)))

    def forward(
        self, levels: Float[Tensor, "b 1 bands frames"]
    ) -> tuple[Float[Tensor, "b words"], Float[Tensor, "b voices"]]:
        """Return the logits of words and of voices for levels in [0, 1]."""
        steps = self.in_order(rearrange(self.word_tower(2 * levels), "b c h t -> b (c h) t"))
        voice = rearrange(self.voice_tower(2 * levels), "b c h t -> b (c h) t")
        moments = torch.cat([voice.mean(2), (voice.var(2, correction=0) + 1e-5).sqrt()], dim=1)
        return self.to_word(steps.flatten(1)), self.to_voice(moments)

    @torch.no_grad()
    def heard(self, waves: Sequence[Waveform]) -> tuple[list[str], list[str]]:
        """Return the most likely word (its concept key) and voice of each recording."""
        parts = [self(levels_of(waves[k : k + BATCH]).to(self.device)) for k in range(0, len(waves), BATCH)]
        words = torch.cat([part[0] for part in parts]).argmax(1).tolist()
        voices = torch.cat([part[1] for part in parts]).argmax(1).tolist()
        return [self.config.words[row] for row in words], [self.config.voices[row] for row in voices]


@dataclass(frozen=True)
class SpeechJudgeSettings:
    """What the judges are and how they are trained.

    Args:
        splits: training splits of the set; the others are held out.
        low, width: of `SpeechJudge`.
        batch_size: recordings per step.
        smoothing: label smoothing of the words.
        lr, weight_decay: of AdamW.
        shift, gain, bands, frames, noise, blur: of the augmentation.
    """

    splits: Sequence[str] = ("train", "pair-val", "concept-val")
    low: int = 16
    width: int = 96
    batch_size: int = 64
    smoothing: float = 0.1
    lr: float = 3e-3
    weight_decay: float = 0.05
    shift: int = 10
    gain: float = 6.0
    bands: int = 10
    frames: int = 10
    noise: float = 0.08
    blur: float = 0.4


class SpeechJudgeObjective(Objective[SpeechJudge]):
    """Cross-entropy over the words, and over the voices."""

    name = "speech-judge"

    def __init__(self, data: Path, settings: SpeechJudgeSettings, device: torch.device, held_out: Sequence[str]):
        self.recipe, self.device, self.batch_size = settings, device, settings.batch_size
        parts = [SpeechSet.load(data, split) for split in settings.splits]
        numbers = torch.cat([torch.from_numpy(part.concepts) for part in parts])
        self.known = numbers.unique()
        self.keys = [parts[0].concept_keys[row] for row in self.known.tolist()]
        self.names = [parts[0].concept_names[row] for row in self.known.tolist()]
        self.voice_names = parts[0].voice_names
        self.levels = torch.cat([part.levels() for part in parts]).to(device)
        self.words = torch.searchsorted(self.known, numbers).to(device)
        self.voices = torch.cat([torch.from_numpy(part.voices) for part in parts]).to(device)
        self.held_out = {split: SpeechSet.load(data, split) for split in held_out}

    def settings(self) -> dict[str, Any]:
        return asdict(self.recipe)

    def build(self) -> SpeechJudge:
        recipe = self.recipe
        return SpeechJudge(self.keys, self.voice_names, self.names, recipe.low, recipe.width)

    def optimizers(self, module: SpeechJudge) -> list[torch.optim.Optimizer]:
        groups = split_parameters(module, muon=False)
        return groups.optimizers(self.recipe.lr, self.recipe.weight_decay, (0.9, 0.99))

    def batch(self, step: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Augmented levels, words and voices."""
        recipe = self.recipe
        rows = torch.randint(len(self.levels), (self.batch_size,), generator=generator, device=self.device)
        levels = blur_share(shift_later(self.levels[rows].float(), recipe.shift, generator), recipe.blur, generator)
        levels = mask_stripes(louder(levels, recipe.gain, generator), recipe.bands, recipe.frames, generator)
        return noisy(levels, recipe.noise, generator), self.words[rows], self.voices[rows]

    def loss(self, module: SpeechJudge, batch: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        levels, words, voices = batch
        word, voice = module(levels)
        parts = {
            "word": F.cross_entropy(word, words, label_smoothing=self.recipe.smoothing),
            "voice": F.cross_entropy(voice, voices),
        }
        return parts["word"] + parts["voice"], parts

    def evaluate(self, module: SpeechJudge) -> dict[str, float]:
        """Words and voices named right on held-out recordings, in per cent."""
        return {
            f"{name}/{split}": value
            for split, data in self.held_out.items()
            for name, value in accuracy(module, data).items()
        }

    def export(self, module: SpeechJudge, folder: Path) -> None:
        """Writes the judges."""
        module.save_pretrained(folder)


def accuracy(judge: SpeechJudge, data: SpeechSet) -> dict[str, float]:
    """Return the judge's accuracies on real recordings in per cent."""
    words, voices = judge.heard(data.waves)
    wanted = [data.concept_keys[row] for row in data.concepts]
    spoken = [data.voice_names[row] for row in data.voices]
    return {
        "word": 100 * sum(a == b for a, b in zip(words, wanted, strict=True)) / len(words),
        "voice": 100 * sum(a == b for a, b in zip(voices, spoken, strict=True)) / len(voices),
    }
