"""Reading a built speech set into memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from versatile_diffusion.modalities.audio.spectrogram import log_mel
from versatile_diffusion.modalities.audio.waveform import Waveform, normalise, read_waveform
from versatile_diffusion.printable import shown
from versatile_diffusion.recipes.emoji.data.split import SPLITS
from versatile_diffusion.recipes.speech.data.build import SpeechManifest, SpeechSample, read_shard

BATCH = 256


@dataclass(frozen=True)
class SpeechSet:
    """A split of the set. The first block of fields is per recording, the second per concept or voice (tables indexed
    by `concepts` and `voices`, the same in every split)."""

    split: str
    waves: list[Waveform]
    labels: list[str]
    captions: list[list[str]]
    concepts: np.ndarray  # int64 (N,)
    voices: np.ndarray  # int64 (N,)

    concept_names: list[str]
    concept_keys: list[str]
    concept_parts: list[str]  # train, concept-val or concept-test
    keywords: list[list[str]]
    voice_names: list[str]
    voice_phrases: list[list[str]]

    def __len__(self) -> int:
        return len(self.waves)

    @torch.no_grad()
    def levels(self) -> Tensor:
        """Return the log-mel levels (N, 1, bands, frames) in half precision."""
        parts = [self.waves[start : start + BATCH] for start in range(0, len(self), BATCH)]
        rows = [log_mel(torch.from_numpy(np.stack([normalise(wave) for wave in part]))) for part in parts]
        return torch.cat(rows)[:, None].half()

    @classmethod
    def load(cls, folder: str | Path, split: str = "train") -> SpeechSet:
        """Load a split of a set built by `versatile data speech --out FOLDER`.

        Raises:
            ValueError: no such set or split, or a shard is missing.
        """
        if split not in SPLITS:
            raise ValueError(f"split {shown(split)}; allowed: {', '.join(SPLITS)}")
        folder = Path(folder)
        manifest = SpeechManifest.read(folder)
        names = manifest.shards[split]
        if missing := [name for name in names if Path(name).name != name or not (folder / name).is_file()]:
            raise ValueError(f"{folder} lacks {', '.join(missing)}; build the set again")
        samples = [sample for name in names for sample in read_shard(folder / name)]
        return cls._of(samples, manifest, split)

    @classmethod
    def _of(cls, samples: list[SpeechSample], manifest: SpeechManifest, split: str) -> SpeechSet:
        place = {row["id"]: index for index, row in enumerate(manifest.voices)}
        return cls(
            split=split,
            waves=[read_waveform(sample.flac, sample.key) for sample in samples],
            labels=[sample.label for sample in samples],
            captions=[sample.captions for sample in samples],
            concepts=np.array([sample.concept_index for sample in samples], dtype=np.int64),
            voices=np.array([place[sample.voice] for sample in samples], dtype=np.int64),
            concept_names=[row["label"] for row in manifest.concepts],
            concept_keys=[row["key"] for row in manifest.concepts],
            concept_parts=[row["part"] for row in manifest.concepts],
            keywords=[row["keywords"] for row in manifest.concepts],
            voice_names=[row["id"] for row in manifest.voices],
            voice_phrases=[row["phrases"] for row in manifest.voices],
        )
