"""Recordings: what is read, at which rate, how loud, how long."""

from __future__ import annotations

import io
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import soundfile

from versatile_diffusion.modalities.audio import draw, numbers, silence, words
from versatile_diffusion.modalities.audio.waveform import (
    LEAD,
    LOUDNESS,
    RATE,
    SAMPLES,
    Waveform,
    check_audio,
    normalise,
    round_to_16_bits,
    write_wav,
)


def tone(seconds: float, rate: int = RATE, pitch: float = 440, level: float = 0.3) -> np.ndarray:
    return (level * np.sin(2 * np.pi * pitch * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def encoded(samples: np.ndarray, rate: int, form: str, subtype: str | None = None) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=form, subtype=subtype)
    return file.getvalue()


@pytest.mark.parametrize(
    ("form", "subtype", "tolerance"),
    [
        ("WAV", "PCM_16", 1e-4),
        ("WAV", "FLOAT", 0),
        ("WAV", "PCM_U8", 1e-2),
        ("FLAC", None, 1e-4),
        ("OGG", None, 0.05),
        ("MP3", None, 0.05),
    ],
)
def test_files_of_every_format_are_read(form: str, subtype: str | None, tolerance: float, tmp_path: Path) -> None:
    samples = tone(0.5, 44_100)
    data = encoded(samples, 44_100, form, subtype)
    (tmp_path / "a.sound").write_bytes(data)
    for given in (data, io.BytesIO(data), tmp_path / "a.sound", {"bytes": data, "path": None}):
        wave = check_audio(given)
        assert wave.rate == 44_100
        middle = slice(8000, 14000)
        assert len(wave.samples) >= len(samples)
        assert np.abs(wave.samples[middle] - samples[middle]).max() <= tolerance


def test_channels_are_averaged_and_integers_scaled() -> None:
    both = np.stack([tone(0.1), -tone(0.1)], axis=1)
    assert np.array_equal(Waveform(both, RATE).samples, np.zeros(len(both), np.float32))
    assert Waveform(np.int16([16384, -32768]), RATE).samples.tolist() == [0.5, -1.0]
    assert check_audio({"array": [0.5, -0.5], "sampling_rate": 8000}).rate == 8000


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros(3, np.float32), "an audio array needs its rate"),
        (3, "an audio value must be a Waveform"),
        (b"RIFF", "the recording cannot be read as a recording"),
        ("no.wav", "no.wav: the recording cannot be read"),
        ("no\0.wav", "the recording cannot be read"),
        (io.StringIO("text"), "opened in text mode"),
    ],
)
def test_what_is_no_recording_is_refused(given: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_audio(given)


@pytest.mark.parametrize(
    ("samples", "rate", "message"),
    [
        (np.zeros(0, np.float32), RATE, "with samples"),
        (np.zeros((2, 3, 4), np.float32), RATE, "with samples"),
        (np.array([0.0, np.nan]), RATE, "not finite"),
        (np.array(["a"]), RATE, "must be of float"),
        (np.zeros(9, np.float32), 0, "the rate of a recording is 0"),
    ],
)
def test_impossible_recordings_are_refused(samples: np.ndarray, rate: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Waveform(samples, rate)


def test_what_is_read_of_a_file_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    many = encoded(np.zeros((10, 65), np.float32), RATE, "WAV")
    with pytest.raises(ValueError, match="65 channels; at most 64"):
        check_audio(many)
    long = encoded(np.zeros(61 * 1000, np.float32), 1000, "FLAC")
    assert check_audio(long).seconds == 60
    monkeypatch.setattr("versatile_diffusion.modalities.audio.waveform.MOST_SAMPLES", 5000)
    assert len(check_audio(long).samples) == 5000
    monkeypatch.setattr("versatile_diffusion.modalities.audio.waveform.MOST_BYTES", 100)
    with pytest.raises(ValueError, match="too large"):
        check_audio(io.BytesIO(long))


def test_a_format_that_is_not_allowed_is_refused() -> None:
    with pytest.raises(ValueError, match="its format is AU; allowed: WAV"):
        check_audio(encoded(tone(0.1), RATE, "AU"))


@pytest.mark.parametrize("rate", [8000, 11_025, 16_000, 22_050, 44_100, 48_000])
def test_any_rate_gives_the_same_sound_at_16_khz(rate: int) -> None:
    gaps = np.zeros(rate // 4, np.float32)
    seen = normalise(Waveform(np.concatenate([gaps, tone(0.5, rate), gaps]), rate))
    ours = normalise(Waveform(tone(0.5), RATE))
    assert seen.shape == ours.shape == (SAMPLES,)
    spectra = [np.abs(np.fft.rfft(samples)) for samples in (seen, ours)]
    assert spectra[0].argmax() == spectra[1].argmax()
    assert np.linalg.norm(spectra[0] - spectra[1]) < 0.1 * np.linalg.norm(spectra[1])


def test_loudness_is_set_and_silence_stays() -> None:
    quiet, loud = (normalise(Waveform(tone(0.5, level=level), RATE)) for level in (0.01, 0.9))
    assert np.abs(quiet - loud).max() < 1e-3
    sounds = quiet[np.abs(quiet) > 0]
    assert np.sqrt((sounds**2).mean()) == pytest.approx(LOUDNESS, rel=0.05)
    assert not normalise(silence()).any()
    assert not normalise(Waveform(tone(0.5, level=1e-5), RATE)).any()


def test_sound_begins_at_once_and_is_cut_with_a_remark() -> None:
    wave = Waveform(np.concatenate([np.zeros(RATE, np.float32), tone(3.0)]), RATE)
    with pytest.warns(UserWarning, match=r"the recording: 3\.0\d s of sound; only the first 1.92 s are used"):
        check_audio(wave)
    seen = normalise(wave)
    assert np.flatnonzero(seen)[0] <= LEAD + 200
    assert np.abs(seen[-800:]).max() > 0.1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_audio(Waveform(np.concatenate([np.zeros(9 * RATE, np.float32), tone(1.9)]), RATE))


def test_what_the_model_sees_is_what_it_sees_again() -> None:
    once = normalise(Waveform(tone(0.7, 22_050), 22_050))
    assert np.abs(normalise(Waveform(once, RATE)) - once).max() < 0.02


def test_a_written_file_is_the_value() -> None:
    wave = Waveform(round_to_16_bits(np.random.default_rng(0).normal(0, 0.4, 5000).astype(np.float32)), RATE)
    file = io.BytesIO()
    write_wav(wave, file, {})
    back = check_audio(file.getvalue())
    assert numbers(back).tobytes() == numbers(wave).tobytes()  # also the signs of zeros
    assert not np.signbit(round_to_16_bits(np.float32([-1e-9]))).any()


def test_a_recording_is_drawn_and_told_in_a_line() -> None:
    picture = np.asarray(draw(Waveform(tone(1.0), RATE)).convert("L"))
    quiet = np.asarray(draw(silence()).convert("L"))
    assert (picture == 0).sum() > 10 * (quiet == 0).sum() > 0
    assert words(Waveform(tone(1.0), RATE)) == "1.00 s at 16 kHz"


def test_without_soundfile_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(ValueError, match=r"need the Python package soundfile.*versatile-diffusion\[audio\]"):
        check_audio(b"RIFF")
