"""The speech set: deterministic, split like the emoji set, with a ledger; a clear line without espeak-ng."""

from __future__ import annotations

import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.cli.conftest import Command, loaded_once, versatile  # noqa: F401 # fixtures
from tests.recipes.speech.conftest import EMOJI
from versatile_diffusion.modalities.audio.waveform import RATE, SAMPLES
from versatile_diffusion.recipes.emoji.data.manifest import Manifest
from versatile_diffusion.recipes.emoji.data.split import SPLITS
from versatile_diffusion.recipes.speech.data import SpeechManifest, build_speech
from versatile_diffusion.recipes.speech.data.reader import SpeechSet
from versatile_diffusion.recipes.speech.data.voices import VOICES, manner, speak, voice_named


def test_words_and_splits_are_those_of_the_emoji_set(spoken: Path) -> None:
    manifest, words = SpeechManifest.read(spoken), Manifest.read(EMOJI)
    assert len(VOICES) >= 12
    assert manifest.total == len(words.concepts) * len(VOICES) == 294
    assert (manifest.emoji, manifest.left_out) == (words.hash, {"too long for the recordings' length": []})
    assert manifest.intact(spoken)
    assert "espeak-ng" in (spoken / "NOTICE").read_text()
    sets = {split: SpeechSet.load(spoken, split) for split in SPLITS}
    parts = {row["key"]: row["part"] for row in words.concepts}
    for split, data in sets.items():
        of = {parts[data.concept_keys[row]] for row in data.concepts}
        assert of == ({split} if split.startswith("concept") else {"train"})
    pairs = {split: {*zip(data.concepts.tolist(), data.voices.tolist(), strict=True)} for split, data in sets.items()}
    assert sum(map(len, pairs.values())) == len(set.union(*pairs.values())) == 294
    for word, voice in pairs["pair-test"]:  # both are known, not together
        assert {(w == word, v == voice) for w, v in pairs["train"]} >= {(True, False), (False, True)}
    data = sets["train"]
    assert data.captions[0][0] == f"{data.labels[0]}, {VOICES[data.voices[0]].phrases[0]}"
    assert all(wave.rate == RATE and 1600 < len(wave.samples) <= SAMPLES for wave in data.waves)
    assert any(" " in label for label in data.labels)  # also words of several
    levels = data.levels()
    assert levels.shape == (len(data), 1, 64, 96)
    assert 0 <= float(levels.min()) < float(levels.max()) <= 1


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> Manifest:
    """As if the emoji set had three words."""
    words = Manifest.read(EMOJI)
    words = replace(words, concepts=words.concepts[:3])
    monkeypatch.setattr(Manifest, "read", classmethod(lambda cls, folder: words))
    return words


def test_the_same_words_give_the_same_bytes_and_a_finished_set_is_kept(
    few: Manifest, spoken: Path, tmp_path: Path
) -> None:
    first = build_speech(tmp_path / "one", EMOJI, workers=1, progress=False)
    again = build_speech(tmp_path / "other", EMOJI, workers=2, progress=False)
    assert again == first
    assert again.hash != SpeechManifest.read(spoken).hash
    shard = tmp_path / "one" / first.shards["train"][0]
    stamp = shard.stat().st_mtime_ns
    build_speech(tmp_path / "one", EMOJI, progress=False)
    assert shard.stat().st_mtime_ns == stamp
    shard.write_bytes(b"damaged")
    build_speech(tmp_path / "one", EMOJI, progress=False)
    assert SpeechManifest.read(tmp_path / "one").intact(tmp_path / "one")


def test_shards_are_a_webdataset(spoken: Path) -> None:
    with tarfile.open(spoken / "pair-test-00000.tar") as archive:
        names = archive.getnames()
    assert [name.partition(".")[2] for name in names] == ["json", "txt", "flac"] * (len(names) // 3)
    assert len({name.partition(".")[0] for name in names}) == len(names) // 3


def test_voices_differ_in_manner_and_in_sound(spoken: Path) -> None:
    data = SpeechSet.load(spoken, "train")
    said = data.levels().float().mean((1, 3))  # the average spectrum
    means = np.stack([said[data.voices == voice].mean(0) for voice in range(len(VOICES))])
    apart = np.linalg.norm(means[:, None] - means[None], axis=2) + np.eye(len(VOICES))
    assert apart.min() > 0.02
    pitches = {manner(voice_named("robot"), word) for word in data.concept_names}
    assert len(pitches) > 5


def test_a_word_that_is_too_long_is_left_out(few: Manifest, spoken: Path, tmp_path: Path) -> None:
    few.concepts[0]["label"] = "a word that nobody could ever speak in less than two seconds of time"
    manifest = build_speech(tmp_path / "set", EMOJI, progress=False)
    assert manifest.left_out == {"too long for the recordings' length": [few.concepts[0]["label"]]}
    assert manifest.total == 2 * len(VOICES)
    assert SpeechSet.load(tmp_path / "set", "train").concept_names == [row["label"] for row in few.concepts[1:]]


def test_mistakes_are_told_in_a_line(
    versatile: Command,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    none = versatile("data", "speech", "--out", tmp_path / "out", "--emoji", tmp_path)
    assert (none.code, none.err.count("\n")) == (2, 1)
    if shutil.which("espeak-ng"):
        assert "no emoji set in" in none.err
        with pytest.raises(ValueError, match="cannot speak 'a' as xx-none"):
            speak(VOICES[0].__class__("none", "xx-none", 50, 160, ()), "a")
    monkeypatch.setenv("PATH", str(tmp_path))
    without = versatile("data", "speech", "--out", tmp_path / "out", "--emoji", EMOJI)
    assert (without.code, without.err.count("\n")) == (2, 1)
    assert "needs the program espeak-ng, which is not installed" in without.err
    with pytest.raises(ValueError, match="no speech set in"):
        SpeechSet.load(tmp_path)
    with pytest.raises(ValueError, match="split 'test'; allowed: train"):
        SpeechSet.load(tmp_path, "test")
