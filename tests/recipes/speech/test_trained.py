"""The parts of the model with audio that are trained: what they understand of recordings, by judges of their own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from versatile_diffusion.modalities.audio.encoder import DualAudioEncoder
from versatile_diffusion.modalities.audio.vae import levels_of
from versatile_diffusion.modalities.bank import ModalityBank
from versatile_diffusion.modalities.encoders.dual import DualTextEncoder
from versatile_diffusion.pipeline.models import find_model
from versatile_diffusion.recipes.speech.codec import mel_distance
from versatile_diffusion.recipes.speech.data.reader import SpeechSet
from versatile_diffusion.recipes.speech.diffuser import AUDIO, audio_bank
from versatile_diffusion.recipes.speech.judge import SpeechJudge
from versatile_diffusion.recipes.speech.settings import TEXT_ENCODER

JUDGE = Path(__file__).parents[2] / "data" / "speech-judge"
EVERY = 7


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> ModalityBank:
    """Without runs, the parts in the checkout."""
    return audio_bank(ModalityBank({}, {}), tmp_path_factory.mktemp("runs"))


def test_the_judge_hears_the_word_before_and_after_the_codec(spoken: Path, bank: ModalityBank) -> None:
    data, judge = SpeechSet.load(spoken, "train"), SpeechJudge.from_pretrained(JUDGE).eval()
    waves = data.waves[::EVERY]
    restored = bank.codecs[AUDIO].decode(bank.codecs[AUDIO].encode(waves))
    assert float(mel_distance(levels_of(restored), levels_of(waves)).mean()) < 4  # dB, of which Griffin-Lim has 1.4
    wanted = [data.concept_keys[row] for row in data.concepts[::EVERY]]
    for heard in (waves, restored):
        right = [k == w for k, w in zip(judge.heard(heard)[0], wanted, strict=True) if w in judge.config.words]
        assert sum(right) > 0.9 * len(right) > 18


def test_the_encoder_gives_a_recording_the_vector_of_its_word(spoken: Path, bank: ModalityBank) -> None:
    data, encoder = SpeechSet.load(spoken, "train"), bank.encoders[AUDIO]
    assert isinstance(encoder, DualAudioEncoder)
    text = DualTextEncoder.from_pretrained(Path(find_model("emoji")) / TEXT_ENCODER, dtype=torch.float32).eval()
    found = (encoder.compare(data.waves[::EVERY]) @ text.compare(data.concept_names).T).argmax(1)
    wanted = torch.from_numpy(data.concepts[::EVERY])
    known = torch.tensor([data.concept_parts[row] == "train" for row in wanted])
    assert (found == wanted)[known].double().mean() > 0.9
