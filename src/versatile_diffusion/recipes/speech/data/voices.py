"""The voices of the set, which are its styles, and espeak-ng, which speaks."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass

from versatile_diffusion.modalities.audio.waveform import Waveform, read_waveform
from versatile_diffusion.printable import shown
from versatile_diffusion.recipes.emoji.data.split import fraction

COMMAND = "espeak-ng"
PITCH_JITTER, SPEED_JITTER = 6, 0.08
"""Largest change of an utterance's pitch (of 0..99) and speed from its voice's own: no voice is a constant."""


@dataclass(frozen=True)
class Voice:
    """A voice of the set.

    Args:
        id: its name in the set.
        voice: accent and variant, as espeak-ng names them.
        pitch: 0 to 99.
        speed: words per minute.
        phrases: what captions call it.
    """

    id: str
    voice: str
    pitch: int
    speed: int
    phrases: tuple[str, ...]


VOICES = (
    Voice("american-man", "en-us+m3", 40, 165, ("american man's voice", "man, american accent")),
    Voice("american-woman", "en-us+f2", 60, 170, ("american woman's voice", "woman, american accent")),
    Voice("american-deep", "en-us+m7", 12, 150, ("deep american voice", "very low voice")),
    Voice("american-fast", "en-us", 55, 250, ("fast american voice", "spoken quickly")),
    Voice("american-whisper", "en-us+whisper", 50, 165, ("american whisper", "whispered")),
    Voice("new-york-man", "en-us-nyc+m1", 50, 175, ("new york voice", "man from new york")),
    Voice("british-man", "en-gb-x-rp+m4", 45, 165, ("british man's voice", "man, british accent")),
    Voice("british-woman", "en-gb+f4", 55, 165, ("british woman's voice", "woman, british accent")),
    Voice("british-slow", "en-gb+m2", 30, 130, ("slow british voice", "spoken slowly")),
    Voice("british-croak", "en-gb+croak", 45, 170, ("hoarse british voice", "croaking")),
    Voice("scottish-man", "en-gb-scotland+m6", 35, 165, ("scottish man's voice", "man, scottish accent")),
    Voice("scottish-woman", "en-gb-scotland+f5", 65, 170, ("scottish woman's voice", "woman, scottish accent")),
    Voice("caribbean-woman", "en-029+f3", 75, 170, ("caribbean woman's voice", "woman, caribbean accent")),
    Voice("robot", "en-us+klatt4", 50, 165, ("robot voice", "spoken by a machine")),
)
"""They differ by accent, pitch, speed or timbre."""


def voice_named(name: str) -> Voice:
    """Return a voice by its name in the set."""
    return next(voice for voice in VOICES if voice.id == name)


def espeak_version() -> str:
    """Return the version of espeak-ng.

    Raises:
        ValueError: it is not installed.
    """
    if (path := shutil.which(COMMAND)) is None:
        raise ValueError(
            f"the speech set needs the program {COMMAND}, which is not installed; "
            f"install it: apt-get install {COMMAND} (or brew install {COMMAND})"
        )
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"\d+(\.\d+)+", said)
    return found[0] if found else said.strip()


def manner(voice: Voice, text: str) -> tuple[int, int]:
    """Return pitch and speed of an utterance, the same each time."""
    pitch, speed = (2 * fraction(f"{what}/{voice.id}/{text}") - 1 for what in ("pitch", "speed"))
    low = round(voice.pitch + PITCH_JITTER * pitch)
    return min(99, max(0, low)), round(voice.speed * (1 + SPEED_JITTER * speed))


def speak(voice: Voice, text: str) -> Waveform:
    """Speak a text.

    Raises:
        ValueError: espeak-ng lacks the voice, or says nothing.
    """
    pitch, speed = manner(voice, text)
    command = [COMMAND, "-v", voice.voice, "-p", str(pitch), "-s", str(speed), "--stdout", "--", text]
    spoken = subprocess.run(command, capture_output=True, check=False)
    if spoken.returncode or not spoken.stdout:
        reason = spoken.stderr.decode(errors="replace").strip() or "no sound"
        raise ValueError(f"{COMMAND} cannot speak {shown(text)} as {voice.voice}: {reason}")
    return read_waveform(spoken.stdout, COMMAND)
