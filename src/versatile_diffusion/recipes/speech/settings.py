"""Run settings of the model with audio as functions: each returns the objective and the loop's settings."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from versatile_diffusion.modalities.encoders.dual import DualTextEncoder
from versatile_diffusion.pipeline.models import find_model
from versatile_diffusion.recipes.speech.codec import AudioCodecObjective, AudioCodecSettings
from versatile_diffusion.recipes.speech.data.reader import SpeechSet
from versatile_diffusion.recipes.speech.diffuser import STAGES_OF_AUDIO, speech_objective
from versatile_diffusion.recipes.speech.encoder import AudioContextObjective, AudioContextSettings
from versatile_diffusion.recipes.speech.judge import SpeechJudgeObjective, SpeechJudgeSettings
from versatile_diffusion.training.engine.autocast import saves_time
from versatile_diffusion.training.engine.loop import LoopSettings, Objective, Settings

TEXT_ENCODER = "bank/encoder-text"


def audio_codec_speech(data: Path, out: Path, device: torch.device) -> tuple[Objective[Any], LoopSettings]:
    """The audio codec (1.1 M parameters). Half as many steps come to a mel distance of 1.0 dB on pair-val."""
    loop = LoopSettings(steps=3000, warmup=50, schedule="cosine", ema=0.998, eval_minutes=10, sample_minutes=10)
    held_out = {split: SpeechSet.load(data, split).levels() for split in ("pair-val", "concept-val")}
    levels = SpeechSet.load(data, "train").levels()
    return AudioCodecObjective(levels, held_out, AudioCodecSettings(), device), loop


def audio_context_speech(data: Path, out: Path, device: torch.device) -> tuple[Objective[Any], LoopSettings]:
    """The audio context encoder (1.9 M parameters), in the space of the installed emoji model. Half as many steps name
    99 % of the words of pair-val and 92 % of the voices."""
    loop = LoopSettings(steps=3000, warmup=50, schedule="cosine", ema=0.995, clip=None, eval_minutes=10)
    text = DualTextEncoder.from_pretrained(Path(find_model("emoji")) / TEXT_ENCODER, dtype=torch.float32).eval()
    held_out = {split: SpeechSet.load(data, split) for split in ("pair-val", "concept-val")}
    train = SpeechSet.load(data, "train")
    return AudioContextObjective(train, held_out, text, AudioContextSettings(), device), loop


def judge_speech(data: Path, out: Path, device: torch.device) -> tuple[Objective[Any], LoopSettings]:
    """The judges of words and voices; their seed is not that of the model's parts. 1,800 steps name 97 % of the real
    words of pair-test, and 93 % of the voices."""
    loop = LoopSettings(
        steps=2500, seed=31, warmup=100, schedule="cosine", ema=0.99, clip=None, eval_minutes=10, sample_minutes=None
    )
    return SpeechJudgeObjective(data, SpeechJudgeSettings(), device, ("pair-test",)), loop


def diffuser_speech(name: str, data: Path, out: Path, device: torch.device) -> tuple[Objective[Any], LoopSettings]:
    """A stage of the emoji model's diffuser with streams of audio: what the words of texts sound like (`speech-words`),
    the same for all five new flows (`speech-means`), then these at all noise levels (`speech`)."""
    loop = LoopSettings(
        steps=6000 if name == "speech" else 2000,
        warmup=50,
        schedule="trapezoid",
        ema=0.996,
        log_every=50,
        checkpoint_minutes=8,
        eval_minutes=30,
        sample_minutes=None,
        bf16=saves_time(device),
    )
    return speech_objective(name, data, out, device), loop


SPEECH: Mapping[str, Mapping[str, Settings]] = {
    "audio-codec": {"speech": audio_codec_speech},
    "audio-context": {"speech": audio_context_speech},
    "speech-judge": {"speech": judge_speech},
    "diffuser": {name: partial(diffuser_speech, name) for name in STAGES_OF_AUDIO},
}
"""By objective and by name."""
