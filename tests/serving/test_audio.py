"""OpenAI's own client reads texts aloud and writes down what was said, by a model with audio."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import openai as library
import pytest
from fastapi.testclient import TestClient
from openai import OpenAI
from service_client import FEW
from tiny import ALL, build_tiny_pipeline

from versatile_diffusion import VersatileDiffusionPipeline, serving
from versatile_diffusion.modalities.audio.waveform import RATE, SAMPLES, Waveform, check_audio, write_wav


@pytest.fixture(scope="module")
def speaking() -> VersatileDiffusionPipeline:
    """The tiny model with streams of audio."""
    pipe = build_tiny_pipeline(ALL, ALL)
    pipe.register_to_config(styles={"robot": "robot voice"})
    return pipe


@pytest.fixture(scope="module")
def audio(speaking: VersatileDiffusionPipeline) -> Iterator[OpenAI]:
    with TestClient(serving.app(speaking, name="speaking"), base_url="http://127.0.0.1") as client:
        yield OpenAI(base_url="http://127.0.0.1/v1", api_key="none", http_client=client, max_retries=0)


@pytest.fixture
def recording() -> bytes:
    file = io.BytesIO()
    write_wav(Waveform((np.sin(np.arange(RATE) / 9) * 9000).astype(np.int16), RATE), file, {})
    return file.getvalue()


@pytest.mark.parametrize("form", ["mp3", "wav", "flac", "opus", "pcm"])
def test_a_text_is_read_aloud(audio: OpenAI, speaking: VersatileDiffusionPipeline, form: Any) -> None:
    told = audio.audio.speech.with_raw_response.create(
        model="speaking", input="a red apple", voice="robot", response_format=form, extra_body=FEW | {"seed": 5}
    )
    assert told.headers["x-seed"] == "5"
    content = told.parse().content
    if form == "pcm":
        assert len(content) // 2 == SAMPLES * 24 // 16
        return
    wave = check_audio(content)
    assert abs(wave.seconds - SAMPLES / RATE) < 0.2
    if form in ("wav", "flac"):
        made = speaking.run("text-to-audio", "a red apple", style="robot", seed=5, **FEW).values[0]
        assert np.abs(wave.samples - made.samples).max() <= 2 / 32768
        assert not np.allclose(
            made.samples, speaking.run("text-to-audio", "a red apple", seed=5, **FEW).values[0].samples
        )


def test_a_recording_is_written_down(audio: OpenAI, speaking: VersatileDiffusionPipeline, recording: bytes) -> None:
    options = FEW | {"seed": 3}
    told = audio.audio.transcriptions.create(model="speaking", file=("a.wav", recording), extra_body=options)
    expected = speaking.run("audio-to-text", check_audio(recording), seed=3, **FEW).texts[0]
    assert told.text == expected
    plain = audio.audio.transcriptions.create(
        model="speaking", file=("a.wav", recording), response_format="text", extra_body=options
    )
    assert str(plain).strip() == expected


@pytest.mark.parametrize(
    ("path", "given", "message"),
    [
        ("speech", {"voice": "alloy"}, "unknown voice 'alloy'; allowed: default, robot"),
        ("speech", {"voice": "robot", "speed": 2.0}, "speed"),
        ("speech", {"voice": "robot", "instructions": "loud"}, "instructions"),
        ("speech", {"voice": "robot", "response_format": "aac"}, "response_format"),
        ("speech", {"voice": "robot", "model": "other"}, "there is no model 'other'"),
        ("transcriptions", {"file": ("a.wav", b"no sound")}, "cannot be read as a recording"),
    ],
)
def test_mistakes_have_a_sentence(audio: OpenAI, path: str, given: dict[str, Any], message: str) -> None:
    ask = {"speech": audio.audio.speech.create, "transcriptions": audio.audio.transcriptions.create}[path]
    first = {"model": "speaking"} | ({"input": "a cat"} if path == "speech" else {})
    with pytest.raises(library.APIStatusError, match=message):
        ask(**(first | given))


def test_a_model_without_audio_says_so(openai: OpenAI, recording: bytes) -> None:
    with pytest.raises(library.BadRequestError, match="audio"):
        openai.audio.speech.create(model="tiny", input="a cat", voice="default")
    with pytest.raises(library.BadRequestError, match="audio"):
        openai.audio.transcriptions.create(model="tiny", file=("a.wav", recording))
