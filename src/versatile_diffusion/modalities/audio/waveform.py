"""Recordings as mono waveforms: reading, resampling, loudness and length."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Float

from versatile_diffusion.numeric import number
from versatile_diffusion.printable import brief, shown

RATE = 16_000
"""Samples per second inside the model."""
SECONDS = 1.92
SAMPLES = round(SECONDS * RATE)
RATES = (1_000, 400_000)
FORMATS = ("WAV", "WAVEX", "RF64", "FLAC", "OGG", "MP3")
"""Formats that libsndfile may detect, regardless of suffix."""
WRITTEN = {
    "wav": ("WAV", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
    "opus": ("OGG", "OPUS"),
    "pcm": ("", ""),
}
"""Forms to write, as soundfile calls them."""
PCM_RATE = 24_000  # of OpenAI's API
MOST_BYTES = 512_000_000
MOST_SECONDS, MOST_SAMPLES, MOST_CHANNELS = 60, 50_000_000, 64
"""What is read of a file at most; only the first `SECONDS` of its sound are used."""
LOUDNESS = 0.1
"""Root mean square of the sounding parts, -20 dB of full scale."""
PEAK = 0.99
QUIET = 1e-4
"""Peak below which a recording is silence, -80 dB of full scale."""
SOUNDING = 0.03
"""Share of the loudest frame's level from which a frame sounds, -30 dB."""
FRAME, LEAD = 160, 480  # samples of a frame (10 ms), and of what is kept before the first that sounds


@dataclass(frozen=True, eq=False)
class Waveform:
    """A mono recording.

    Args:
        samples: array (N,) of float in -1..1 (values beyond are clipped when written), or of int16 or int32; or (N,
            channels), which are averaged. It is copied, and read-only.
        rate: samples per second.

    Raises:
        ValueError: another type or shape, no samples, values that are not finite, or an impossible rate.
    """

    samples: Float[np.ndarray, " n"]
    rate: int

    def __post_init__(self) -> None:
        rate = number("the rate of a recording", self.rate, *RATES, whole=True)
        array = np.asarray(self.samples)
        if array.ndim not in (1, 2) or 0 in array.shape or (array.ndim == 2 and array.shape[1] > MOST_CHANNELS):
            raise ValueError(f"a recording must be an array (N,) or (N, channels) with samples, not {array.shape}")
        if array.dtype.kind == "i" and array.dtype.itemsize in (2, 4):
            array = array / float(2 ** (8 * array.dtype.itemsize - 1))
        elif array.dtype.kind != "f":
            raise ValueError(f"a recording must be of float, int16 or int32, not {array.dtype}")
        mono = array.astype(np.float32) if array.ndim == 1 else array.mean(1, dtype=np.float64).astype(np.float32)
        if not np.isfinite(mono).all():
            raise ValueError("a recording has samples that are not finite")
        mono.setflags(write=False)
        object.__setattr__(self, "samples", mono)
        object.__setattr__(self, "rate", rate)

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate


def _library(name: str) -> Any:
    """Import one of the libraries of the extra `audio`.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return import_module(name)
    except (ImportError, OSError) as error:  # OSError: soundfile without its own library
        raise ValueError(
            f"recordings need the Python package {name}, which is not installed ({error}); "
            "install the audio extra: pip install 'versatile-diffusion[audio]'"
        ) from error


def read_waveform(file: Any, name: str = "") -> Waveform:
    """Read a sound file of one of `FORMATS`, at most its first `MOST_SECONDS`.

    Args:
        file: path, file content or open binary file.
        name: name for messages; by default the path.

    Raises:
        ValueError: a missing, damaged or unsupported file.
    """
    name = name or (brief(os.fsdecode(file)) if isinstance(file, str | os.PathLike) else "the recording")
    data, soundfile = _bytes_of(file, name), _library("soundfile")
    try:
        with soundfile.SoundFile(BytesIO(data)) as opened:
            if opened.format not in FORMATS:
                raise ValueError(f"its format is {opened.format}; allowed: {', '.join(FORMATS)}")
            if opened.channels > MOST_CHANNELS:
                raise ValueError(f"it has {opened.channels} channels; at most {MOST_CHANNELS} are allowed")
            most = min(MOST_SECONDS * opened.samplerate, MOST_SAMPLES // opened.channels)
            samples = opened.read(most, dtype="float32", always_2d=True)
            return Waveform(samples, opened.samplerate)
    except (soundfile.SoundFileError, ValueError, TypeError, MemoryError) as error:
        reason = " ".join(str(getattr(error, "error_string", error)).split())[:200]
        raise ValueError(f"{name} cannot be read as a recording ({reason or type(error).__name__})") from error


def _bytes_of(file: Any, name: str) -> bytes:
    if isinstance(file, bytes | bytearray):
        return bytes(file)
    try:
        if isinstance(file, str | os.PathLike):
            with open(file, "rb") as opened:
                data = opened.read(MOST_BYTES + 1)
        else:
            data = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        raise ValueError(f"{name}: the recording cannot be read ({getattr(error, 'strerror', error)})") from error
    if not isinstance(data, bytes):
        raise ValueError(f"{name}: opened in text mode; use mode 'rb'")
    if len(data) > MOST_BYTES:
        raise ValueError(f"{name}: the file is too large; at most {MOST_BYTES:,} bytes are allowed")
    return data


def check_audio(value: Any) -> Waveform:
    """Return a recording as a mono waveform at its own rate.

    Args:
        value: a `Waveform`; a path, file content or open binary file; `{"array": ..., "sampling_rate": ...}` or
            `{"bytes": ..., "path": ...}` as in data sets of Hugging Face.

    Raises:
        ValueError: another type, or an unreadable file.
    """
    name = "the recording"
    if isinstance(value, Mapping) and {"array", "sampling_rate"} <= value.keys():
        value = Waveform(value["array"], value["sampling_rate"])
    elif isinstance(value, Mapping) and {"bytes", "path"} <= value.keys():
        value = value["path"] if value["bytes"] is None else value["bytes"]
    if isinstance(value, str | os.PathLike | bytes | bytearray) or hasattr(value, "read"):
        name = brief(os.fsdecode(value)) if isinstance(value, str | os.PathLike) else name
        value = read_waveform(value, name)
    if isinstance(value, np.ndarray):
        raise ValueError("an audio array needs its rate: give Waveform(samples, rate)")
    if not isinstance(value, Waveform):
        raise ValueError(
            f"an audio value must be a Waveform(samples, rate) or a sound file, not {type(value).__name__}"
            if not isinstance(value, str)
            else f"{shown(value)} is no recording"
        )
    if (length := len(sounding_part(value.samples, value.rate)) / value.rate) > SECONDS + LEAD / RATE:
        warnings.warn(f"{name}: {length:.2f} s of sound; only the first {SECONDS} s are used", stacklevel=2)
    return value


def sounding_part(samples: Float[np.ndarray, " n"], rate: int = RATE) -> Float[np.ndarray, " m"]:
    """Return the part from the first to the last frame that sounds, with a short lead; empty for silence."""
    size = max(1, FRAME * rate // RATE)
    levels = _levels(samples, size)
    if np.abs(samples).max(initial=0) < QUIET:
        return samples[:0]
    (places,) = np.nonzero(levels > SOUNDING * levels.max())
    return samples[max(0, places[0] * size - LEAD * rate // RATE) : (places[-1] + 2) * size]


def _levels(samples: Float[np.ndarray, " n"], size: int) -> Float[np.ndarray, " frames"]:
    """Return the root mean square of each frame; the last one may be shorter."""
    padded = np.pad(samples, (0, -len(samples) % size))
    return np.sqrt((padded.reshape(-1, size) ** 2).mean(1))


def normalise(wave: Waveform) -> Float[np.ndarray, " n"]:
    """Return what the model sees of a recording: `SAMPLES` samples at `RATE`, from its first sound on, at the loudness
    `LOUDNESS`, padded with silence or cut."""
    samples = wave.samples
    if wave.rate != RATE:
        samples = _library("soxr").resample(samples, wave.rate, RATE, quality="HQ")
    samples = sounding_part(samples)[:SAMPLES]
    if len(samples):
        levels = _levels(samples, FRAME)
        loud = float(np.sqrt((levels[levels > SOUNDING * levels.max()] ** 2).mean()))
        samples = samples * min(LOUDNESS / loud, PEAK / float(np.abs(samples).max()))
    return np.pad(samples, (0, SAMPLES - len(samples))).astype(np.float32)


def round_to_16_bits(samples: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """Round to the 16 bits of the files that are written."""
    return (_levels16(samples) / 32768 + 0.0).astype(np.float32)  # a negative zero becomes one without a sign


def _levels16(samples: Float[np.ndarray, " n"]) -> np.ndarray:
    return (samples.astype(np.float64) * 32768).round().clip(-32768, 32767)


def write_wav(wave: Waveform, stream: BinaryIO, chunks: Mapping[str, str]) -> None:
    """Write a WAV file of 16 bits. Records are JSON files beside it."""
    write_sound(wave, stream, "wav")


def write_sound(wave: Waveform, stream: BinaryIO, form: str) -> None:
    """Write a recording as one of `WRITTEN`, of 16 bits where the form has bits; `pcm` has samples alone, at 24 kHz.

    Raises:
        ValueError: another form.
    """
    if form not in WRITTEN:
        raise ValueError(f"a recording cannot be written as {shown(form)}; allowed: {', '.join(WRITTEN)}")
    samples, rate = wave.samples, wave.rate
    if form == "pcm" and rate != PCM_RATE:
        samples, rate = _library("soxr").resample(samples, rate, PCM_RATE, quality="HQ"), PCM_RATE
    levels = _levels16(samples).astype("<i2")
    if form == "pcm":
        stream.write(levels.tobytes())
        return
    kind, subtype = WRITTEN[form]
    content = BytesIO()  # soundfile seeks, which stdout cannot
    _library("soundfile").write(content, levels, rate, subtype=subtype, format=kind)
    stream.write(content.getvalue())
